"""The asset file: what a fresh installation lists. Its format is told in `infra/data/README.md`."""

import json
import re
from collections.abc import Iterator
from dataclasses import fields
from decimal import Decimal
from importlib import resources
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from schemas.market import Asset, asset_adapter
from schemas.money import CURRENCY_SCALES, ZERO

SCALE_MAX: Final = 18
ASSET_ID_PATTERN: Final = r"[A-Z0-9]{1,10}"
_FIELDS: Final = tuple(field.name for field in fields(Asset))
_SPACE: Final = re.compile(r"[ \t\r\n]*")


class AssetFileInvalid(ValueError):
    """The asset file cannot be used; the text names the file, the line, the field and the rule."""


def load_asset_file(path: Path | None) -> tuple[Asset, ...]:
    """The assets of a file, in its order; None for the file that comes with the package. AssetFileInvalid where it breaks a rule.

    A JSON array of objects with exactly the fields of `Asset`; amounts are decimal strings.
    """
    source = resources.files("infra") / "data" / "assets.json" if path is None else path
    name = str(path or "assets.json")
    try:
        rows = list(_rows(source.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError) as error:
        raise AssetFileInvalid(f"{name}: {error}") from None
    except json.JSONDecodeError as error:
        raise AssetFileInvalid(f"{name}, line {error.lineno}: {error.msg}") from None
    listed: dict[str, int] = {}
    assets = []
    for line, row in rows:
        try:
            asset = _checked(row)
        except ValueError as error:
            raise AssetFileInvalid(f"{name}, line {line}, {error}") from None
        if asset.asset_id in listed:
            raise AssetFileInvalid(f"{name}, line {line}, asset_id: {asset.asset_id} is listed in line {listed[asset.asset_id]} already")
        listed[asset.asset_id] = line
        assets.append(asset)
    return tuple(assets)


def _rows(text: str) -> Iterator[tuple[int, Any]]:
    """The elements of a JSON array, each with the line on which it begins."""
    decoder = json.JSONDecoder(parse_float=Decimal)
    position, expected = _after_space(text, 0), "["
    while True:
        if text[position : position + 1] != expected:
            if expected == "," and text[position:].rstrip() == "]":
                return
            raise json.JSONDecodeError(f"{expected!r} is expected", text, position)
        position, expected = _after_space(text, position + 1), ","
        row, end = decoder.raw_decode(text, position)
        yield text.count("\n", 0, position) + 1, row
        position = _after_space(text, end)


def _after_space(text: str, position: int) -> int:
    found = _SPACE.match(text, position)
    return found.end() if found else position


def _checked(row: object) -> Asset:
    """ValueError with the field's name and the rule."""
    if not isinstance(row, dict):
        raise ValueError("is not an object")  # noqa: TRY004 - told with file and line like any other broken rule
    unknown = sorted(set(row) - set(_FIELDS))
    if unknown:
        raise ValueError(f"{unknown[0]}: is not a field of an asset")
    missing = [name for name in _FIELDS if name not in row]
    if missing:
        raise ValueError(f"{missing[0]}: Field required")
    try:
        asset = asset_adapter().validate_python(row)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        raise ValueError(f"{first['loc'][0]}: {first['msg']}") from None
    for name, holds, rule in (
        ("asset_id", re.fullmatch(ASSET_ID_PATTERN, asset.asset_id), "has 1 to 10 of A-Z and 0-9"),
        ("asset_id", asset.asset_id not in CURRENCY_SCALES, "is not the name of a currency"),
        ("price_usd", asset.price_usd > ZERO, "is above zero"),
        ("minimum_quantity", asset.minimum_quantity > ZERO, "is above zero"),
        ("price_scale", 0 <= asset.price_scale <= SCALE_MAX, f"is 0 to {SCALE_MAX}"),
        ("quantity_scale", 0 <= asset.quantity_scale <= SCALE_MAX, f"is 0 to {SCALE_MAX}"),
    ):
        if not holds:
            raise ValueError(f"{name}: {rule}")
    return asset
