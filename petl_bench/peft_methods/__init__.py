"""Every method of peft's as a Method: `peft:vera`, `peft:FOLDER` with an adapter_config.json.

The name, fields, defaults and checks are peft's own, read from its config classes; nothing here
knows one method from another. `attaching.py` runs peft where there is no data.
"""

from petl_bench.peft_methods.finding import find, names

__all__ = ["find", "names"]
