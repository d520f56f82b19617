"""What the native library can refuse. The engine translates these; nothing else crosses the boundary.

BindingError
├── LoadError        the model or its context cannot be had: the engine cannot start
├── AdapterError     one adapter file is refused: the engine goes on
│   ├── UnreadableAdapterError   not for what it is: it cannot be read now
│   ├── NoRoomError              not for what it is: others use the bank
│   └── BankTooLargeError        not for what it is: there is no memory for so large a bank
└── DecodeError      one pass failed: its sequences must be dropped or computed again
"""


class BindingError(Exception):
    """Base of everything that binding raises on purpose."""


class LoadError(BindingError):
    """The message names the file and what llama.cpp said about it."""


class AdapterError(BindingError):
    """The message names the tensor or the metadata key that is wrong."""


class UnreadableAdapterError(AdapterError):
    """The file was there when it was registered, and cannot be read now."""


class NoRoomError(AdapterError):
    """The adapters that run now leave no room in the bank; later there may be."""


class BankTooLargeError(AdapterError):
    """The device that the model lies on has no memory for so many ranks."""


class DecodeError(BindingError):
    """`status` is llama_decode's return value: 2 aborted, negative for an error."""

    def __init__(self, status: int) -> None:
        super().__init__(f"llama_decode returned {status}")
        self.status = status
