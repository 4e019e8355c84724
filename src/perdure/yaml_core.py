"""YAML as version 1.2 has it, which icp and dfx read: ``on`` and ``NO`` are texts, ``012`` is one, a key is given once.

PyYAML reads version 1.1 and lets the last of equal keys win.
"""

from __future__ import annotations

import re
from typing import Any, Final

import yaml

__all__ = ["load"]

_PLAIN: Final = {
    "null": (r"~|null|Null|NULL|", "~nN\0"),
    "bool": (r"true|True|TRUE|false|False|FALSE", "tTfF"),
    "int": (r"[-+]?(?:0|[1-9][0-9]*)|0x[0-9a-fA-F]+", "-+0123456789"),
    "float": (
        r"[-+]?(?:\.[0-9]+|[0-9]+\.[0-9]*)(?:[eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        "-+.0123456789",
    ),
    "merge": (r"<<", "<"),
}


class _Loader(yaml.SafeLoader):
    """The core schema, with merge keys."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - PyYAML's own, which this one replaces

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Refuse a key that is given twice."""
        seen = set()
        for key, _ in node.value:
            if key.tag == "tag:yaml.org,2002:merge":
                continue
            if (key.tag, key.value) in seen if isinstance(key.value, str) else False:
                raise ValueError(f"key {key.value!r:.60} is given twice, line {key.start_mark.line + 1}")
            if isinstance(key.value, str):
                seen.add((key.tag, key.value))
        return super().construct_mapping(node, deep)


for _name, (_pattern, _first) in _PLAIN.items():
    _Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_name}", re.compile(f"(?:{_pattern})$"), [one if one != "\0" else "" for one in _first]
    )


def load(text: str) -> Any:
    """The value of a document.

    Raises:
        ValueError: it is no YAML, a key is given twice, or something has a type of its own.
    """
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error
    except (AttributeError, IndexError, KeyError, TypeError, OverflowError) as error:
        # What PyYAML's own constructors raise where a value is not what its tag says: `!!int ""`.
        raise ValueError(f"a value is not what its tag says ({type(error).__name__}: {error})") from error
