"""Reading the asset file: the packaged one as it is, and a broken one with line, field and rule in the error."""

import json
from pathlib import Path

import pytest

from infra.asset_file import AssetFileInvalid, load_asset_file

GOOD = {
    "asset_id": "AAA",
    "symbol": "aaa",
    "name": "A",
    "category": "layer-1",
    "description": "A.",
    "image": None,
    "market_cap_rank": 1,
    "circulating_supply": "10",
    "total_supply": None,
    "max_supply": None,
    "price_usd": "2.50",
    "ath": None,
    "ath_date": None,
    "atl": None,
    "atl_date": None,
    "quantity_scale": 8,
    "price_scale": 4,
    "minimum_quantity": "0.01",
    "volatility": "0.5",
    "is_active": True,
}


def _file(folder: Path, *rows: object) -> Path:
    path = folder / "assets.json"
    path.write_text("[\n" + ",\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows) + "\n]\n")
    return path


def test_the_packaged_file_is_read():
    """All 250 assets, bitcoin first at 50,000."""
    assets = load_asset_file(None)
    assert len(assets) == 250
    assert (assets[0].asset_id, str(assets[0].price_usd)) == ("BTC", "50000.00")


def test_an_own_file_is_read(tmp_path):
    """A file of any layout; an object may go over several lines."""
    path = tmp_path / "assets.json"
    path.write_text(json.dumps([GOOD, GOOD | {"asset_id": "BBB"}], indent=2))
    assert [asset.asset_id for asset in load_asset_file(path)] == ["AAA", "BBB"]


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ([GOOD, GOOD], "line 3, asset_id: AAA is listed in line 2 already"),
        ([GOOD, GOOD | {"asset_id": "BBB", "price_usd": "0"}], "line 3, price_usd: is above zero"),
        ([GOOD | {"asset_id": "USD"}], "line 2, asset_id: is not the name of a currency"),
        ([GOOD | {"asset_id": "too-long-id"}], "line 2, asset_id: has 1 to 10 of A-Z and 0-9"),
        ([GOOD | {"price_usd": "much"}], "line 2, price_usd: Value error, must be a decimal number"),
        ([GOOD | {"colour": "red"}], "line 2, colour: is not a field of an asset"),
        ([GOOD | {"quantity_scale": 99}], "line 2, quantity_scale: is 0 to 18"),
        ([{name: value for name, value in GOOD.items() if name != "name"}], "line 2, name: Field required"),
        ([GOOD, "17"], "line 3, is not an object"),
        ([GOOD, '{"asset_id": '], "line 4"),
        ([GOOD, "{} {}"], "line 3"),
        ([], "line 3"),
    ],
)
def test_a_broken_file_is_told(tmp_path, rows, told):
    """The error names the line on which the asset begins, the field and the rule."""
    with pytest.raises(AssetFileInvalid, match=told):
        load_asset_file(_file(tmp_path, *rows))


def test_a_missing_file_is_told(tmp_path):
    """A path that is not there is an error of the same kind."""
    with pytest.raises(AssetFileInvalid, match="No such file"):
        load_asset_file(tmp_path / "none.json")
