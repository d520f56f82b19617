// openai for Node.js, with `baseURL`. Reports as scenarios/steps.py does: a line of JSON for each step.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import OpenAI from "openai";

const url = process.env.LLAMALEON_URL;
const scripted = process.env.LLAMALEON_SCRIPTED_URL;
const [model, adapted, unknown] = ["nano", "nano+other", "nano+nobody"];
const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: "unused", maxRetries: 0 });
const messages = [{ role: "user", content: "Parte diario de Campus Riberis." }];
const greedy = { model, messages, temperature: 0, max_tokens: 12 };
const person = {
  type: "object",
  properties: { name: { type: "string", maxLength: 12 }, age: { type: "integer", minimum: 0, maximum: 150 } },
  required: ["name", "age"],
  additionalProperties: false,
};
const weather = {
  type: "function",
  function: {
    name: "weather",
    description: "The weather of a city.",
    parameters: {
      type: "object",
      properties: { city: { type: "string", maxLength: 20 } },
      required: ["city"],
      additionalProperties: false,
    },
  },
};

async function waitUntilIdle() {
  const until = Date.now() + 5000;
  for (;;) {
    const { data } = await (await fetch(`${url}/llamaleon/ps`)).json();
    if (data.every((one) => one.running === 0)) return;
    assert(Date.now() < until, "the server still generates for a client that has gone");
    await new Promise((done) => setTimeout(done, 20));
  }
}

const steps = {
  async chat() {
    const answer = await client.chat.completions.create(greedy);
    assert(answer.choices[0].message.content);
    assert.equal(answer.usage.completion_tokens, 12);
  },
  async stream() {
    let text = "";
    for await (const chunk of await client.chat.completions.create({ ...greedy, stream: true }))
      text += chunk.choices[0]?.delta.content ?? "";
    assert.equal(text, (await client.chat.completions.create(greedy)).choices[0].message.content);
  },
  async tools() {
    const talking = new OpenAI({ baseURL: `${scripted}/v1`, apiKey: "unused", maxRetries: 0 });
    const runner = talking.chat.completions.runTools({
      model: "scripted",
      messages: [{ role: "user", content: "¿Qué tiempo hace en Madrid?" }],
      stream: true,
      tools: [
        {
          type: "function",
          function: { ...weather.function, parse: JSON.parse, function: ({ city }) => `${city}: frío` },
        },
      ],
    });
    await runner.finalContent();
    const result = runner.messages.find((message) => message.role === "tool");
    assert.equal(result.content, "Madrid: frío");
    const forced = await client.chat.completions.create({
      model,
      messages,
      tools: [weather],
      tool_choice: "required",
      max_tokens: 200,
    });
    assert("city" in JSON.parse(forced.choices[0].message.tool_calls[0].function.arguments));
  },
  async structured() {
    const answer = await client.chat.completions.parse({
      model,
      messages,
      max_tokens: 200,
      response_format: { type: "json_schema", json_schema: { name: "person", schema: person, strict: true } },
    });
    assert.deepEqual(Object.keys(JSON.parse(answer.choices[0].message.content)).sort(), ["age", "name"]);
  },
  async embeddings() {
    const answer = await client.embeddings.create({ model, input: ["hola", "adiós"] }); // base64 underneath
    const [first, second] = answer.data.map((item) => item.embedding);
    assert(first.length === second.length && first.length > 0);
    assert.notDeepEqual(first, second);
  },
  async adapter() {
    const plain = await client.chat.completions.create(greedy);
    const other = await client.chat.completions.create({ ...greedy, model: adapted });
    assert.notEqual(plain.choices[0].message.content, other.choices[0].message.content);
  },
  async errors() {
    await assert.rejects(client.chat.completions.create({ ...greedy, model: unknown }), (error) => {
      assert(error instanceof OpenAI.NotFoundError);
      assert.equal(error.code, "model_not_found");
      return true;
    });
  },
  async cancellation() {
    const stream = await client.chat.completions.create({
      ...greedy,
      stream: true,
      max_tokens: 900,
      ignore_eos: true,
    });
    for await (const _ of stream) break;
    await waitUntilIdle();
  },
};

const installed = JSON.parse(readFileSync(new URL("./node_modules/openai/package.json", import.meta.url)));
console.log(JSON.stringify({ package: "openai (Node.js)", version: installed.version }));
for (const [step, body] of Object.entries(steps)) {
  try {
    await body();
    console.log(JSON.stringify({ step, result: "passed", detail: "" }));
  } catch (error) {
    console.log(JSON.stringify({ step, result: "failed", detail: error.stack }));
  }
}
