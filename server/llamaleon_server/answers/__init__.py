"""From a conversation, in the words of no protocol, to events: what every chat route shares."""
