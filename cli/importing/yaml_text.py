"""YAML with every scalar as its text: `restart: no` is a word, and 012 is what was written."""

from __future__ import annotations

import re
from typing import Any

from mgmt.protocol.errors import MgmtError

from .report import plain


def read(text: str) -> Any:
    """Nested dicts and lists of str; what is empty or null is "". Anchors and merge keys are followed."""
    import yaml

    def build(loader: yaml.SafeLoader, node: yaml.Node) -> Any:
        if isinstance(node, yaml.MappingNode):
            return loader.construct_mapping(node, deep=True)
        if isinstance(node, yaml.SequenceNode):
            return loader.construct_sequence(node, deep=True)
        assert isinstance(node, yaml.ScalarNode)
        if node.style is None and node.value in ("~", "null"):
            return ""
        # An escape may stand for half a character, which is no text.
        return str(node.value).encode("utf-8", "replace").decode()

    class Texts(yaml.SafeLoader):
        """Without the resolvers that make numbers, dates and booleans of plain words."""

        yaml_implicit_resolvers = {"<": [("tag:yaml.org,2002:merge", re.compile("<<"))]}  # noqa: RUF012 - as its base has it
        yaml_constructors = {
            f"tag:yaml.org,2002:{kind}": yaml.SafeLoader.yaml_constructors[f"tag:yaml.org,2002:{kind}"]
            for kind in ("map", "seq")
        } | {None: build}

    try:
        return yaml.load(text, Texts)
    except RecursionError:
        raise MgmtError("bad-config", "not a YAML file for people: it is nested too deeply") from None
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        said = plain(" ".join(str(error).split()))[:300]
        raise MgmtError("bad-config", f"not a YAML file: {said}") from None
