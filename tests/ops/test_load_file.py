"""Load files: what is read, and what is told of each bad line."""

import io
import json

import pytest

from ops.load_file import COLUMNS, BadLine, Line, LoadFileInvalid, format_of, open_text, read_lines
from ops.load_users import UsersInvalid, read_users
from schemas.requests import order_id

HEADER = "key,username,kind,amount,asset_id,quantity,client_order_id"
ORDERS = "key,username,kind,asset_id,quantity,price,time_in_force,expires_at,client_order_id"
DEPOSIT = "d1,trader_1,deposit,100.50,,,"
BUY = "b1,trader_1,market_buy,,BTC,0.5,own-1"


def _csv(*rows: str, header: str = HEADER) -> list[Line | BadLine]:
    return list(read_lines(io.StringIO("\n".join((header, *rows)) + "\n", newline=""), "csv"))


def _ndjson(*rows: object) -> list[Line | BadLine]:
    text = "\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows)
    return list(read_lines(io.StringIO(text, newline=""), "ndjson"))


def test_csv_lines_are_read():
    """With their line numbers, in any case, blank lines left out."""
    assert _csv(DEPOSIT, "", "b1,Trader_1,Market_Buy,,btc,0.5,own-1") == [
        Line(2, "d1", "trader_1", "deposit", amount="100.50"),
        Line(4, "b1", "trader_1", "market_buy", asset_id="BTC", quantity="0.5", client_order_id="own-1"),
    ]


def test_columns_come_in_any_order_and_may_be_left_out():
    """Only those that are needed."""
    assert _csv("deposit,5,trader_1,k", header="kind, Amount ,username,key") == [Line(2, "k", "trader_1", "deposit", amount="5")]


def test_ndjson_lines_are_read_without_losing_a_digit():
    """A number goes out as it was written."""
    rows = _ndjson(
        '{"key":"k1","username":"trader_1","kind":"market_sell","asset_id":"eth","quantity":0.123456789012345678}',
        "",
        {"key": "k2", "username": "trader_1", "kind": "withdraw", "amount": "7.10", "asset_id": None},
    )
    assert [(row.number, row.body) for row in rows] == [
        (1, {"asset_id": "ETH", "order_type": "market_sell", "quantity": "0.123456789012345678"}),
        (3, {"amount": "7.10"}),
    ]


def test_what_is_sent():
    """The path, the body and the key of each kind."""
    deposit, buy = _csv(DEPOSIT, BUY)
    assert (deposit.path, deposit.body, deposit.idempotency_key) == ("/balance/deposit", {"amount": "100.50"}, "load:d1")
    assert (buy.path, buy.body) == ("/orders", {"asset_id": "BTC", "order_type": "market_buy", "quantity": "0.5", "client_order_id": "own-1"})
    assert deposit.digest != buy.digest
    assert deposit.digest == _csv("other,trader_1,deposit,100.50,,,")[0].digest


def test_orders_with_a_price_and_cancels():
    """What is filled goes into the body; a cancel names the order as its owner named it, and is posted under the order's own id."""
    limit, stop, cancel = _csv(
        "l1,trader_1,limit_buy,btc,0.5,40000,GTD,2030-01-01T00:00:00Z,mine",
        "s1,trader_1,stop_loss_sell,BTC,0.5,30000,,,",
        "c1,Trader_1,cancel,,,,,,mine",
        header=ORDERS,
    )
    assert limit.path == stop.path == "/orders"
    assert limit.body == {
        "asset_id": "BTC",
        "order_type": "limit_buy",
        "quantity": "0.5",
        "price": "40000",
        "time_in_force": "gtd",
        "expires_at": "2030-01-01T00:00:00Z",
        "client_order_id": "mine",
    }
    assert stop.body == {"asset_id": "BTC", "order_type": "stop_loss_sell", "quantity": "0.5", "price": "30000"}
    assert (cancel.path, cancel.body) == (f"/orders/{order_id('trader_1', 'mine')}/cancel", {})


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ("k,trader_1,limit_sell,BTC,1,,,,", "line 2, price: is missing"),
        ("k,trader_1,limit_sell,BTC,1,0,,,", "line 2, price: Input should be greater than 0"),
        ("k,trader_1,market_buy,BTC,1,5,,,", "line 2, price: a market_buy has none"),
        ("k,trader_1,limit_buy,BTC,1,5,soon,,", "line 2, time_in_force: Input should be 'gtc'"),
        ("k,trader_1,limit_buy,BTC,1,5,gtd,tomorrow,", "line 2, expires_at: "),
        ("k,trader_1,cancel,,,,,,", "line 2, client_order_id: is missing"),
        ("k,trader_1,cancel,,,,,,a b", "line 2, client_order_id: String should match pattern"),
        ("k,trader_1,cancel,BTC,,,,,mine", "line 2, asset_id: a cancel has none"),
    ],
)
def test_bad_orders_and_cancels(row, told):
    """A column too few, too many or wrong."""
    (line,) = _csv(row, header=ORDERS)
    assert isinstance(line, BadLine)
    assert str(line).startswith(told)


@pytest.mark.parametrize(
    ("row", "told"),
    [
        (",trader_1,deposit,5,,,", "line 2, key: is missing"),
        ("k 1,trader_1,deposit,5,,,", "line 2, key: 'k 1' is not 1 to 200 letters, digits and . _ : -"),
        ("k,bob,deposit,5,,,", "line 2, username: 'bob' is not 6 to 30 letters, digits and _"),
        ("k,trader_1,,5,,,", "line 2, kind: is missing"),
        ("k,trader_1,gift,5,,,", "line 2, kind: 'gift' is not one of deposit, withdraw, market_buy, market_sell"),
        ("k,trader_1,deposit,,,,", "line 2, amount: is missing"),
        ("k,trader_1,deposit,much,,,", "line 2, amount: must be a decimal number"),
        ("k,trader_1,deposit,0,,,", "line 2, amount: Input should be greater than 0"),
        ("k,trader_1,withdraw,-5,,,", "line 2, amount: Input should be greater than 0"),
        ("k,trader_1,deposit,1.001,,,", "line 2, amount: must have at most 2 decimals"),
        ("k,trader_1,deposit,1000000.01,,,", "line 2, amount: Input should be less than or equal to 1"),
        ("k,trader_1,deposit,NaN,,,", "line 2, amount: must be a"),
        ("k,trader_1,deposit,5,BTC,,", "line 2, asset_id: a deposit has none"),
        ("k,trader_1,market_buy,5,BTC,1,", "line 2, amount: a market_buy has none"),
        ("k,trader_1,market_buy,,,1,", "line 2, asset_id: is missing"),
        ("k,trader_1,market_buy,,BTC,,", "line 2, quantity: is missing"),
        ("k,trader_1,market_sell,,BTC,0,", "line 2, quantity: Input should be greater than 0"),
        ("k,trader_1,market_sell,,BTC,1,a b", "line 2, client_order_id: String should match pattern '^[A-Za-z0-9._:-]{1,64}$'"),
        ("k,trader_1,deposit,5", "line 2, has 4 columns, the header has 7"),
        (
            ",bob,gift,5,,,",
            "line 2, key: is missing; username: 'bob' is not 6 to 30 letters, digits and _; kind: 'gift' is not one of",
        ),
        ("k,trader_1,market_buy,,B!,1,", "line 2, asset_id: String should match pattern '^[A-Z0-9]{1,10}$'"),
        ("k\ufffd,trader_1,deposit,5,,,", "line 2, key: 'k\ufffd' is not 1 to 200 letters, digits and . _ : -"),
    ],
)
def test_bad_csv_lines(row, told):
    """Each is told with line number, column and rule; all its faults at once."""
    (line,) = _csv(row)
    assert isinstance(line, BadLine)
    assert str(line).startswith(told)


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ("{", "line 1, is not JSON: Expecting property name enclosed in double quotes at character 2"),
        ("[]", "line 1, is not a JSON object"),
        ({"key": "k", "username": "trader_1", "kind": "deposit", "amount": "5", "note": "x"}, f"line 1, note: is not a column; there are {', '.join(COLUMNS)}"),
        ({"key": "k", "username": "trader_1", "kind": "deposit", "amount": True}, "line 1, amount: is neither text nor a number"),
        ({"key": "k", "username": ["a"], "kind": "deposit", "amount": "5"}, "line 1, username: is neither text nor a number"),
        ('{"key":"k","key":"l"}', "line 1, key: stands twice"),
        ('{"key":"k","username":"trader_1","kind":"deposit","amount":NaN}', "line 1, amount: must be a"),
        ("[" * 9_000, "line 1, "),
    ],
)
def test_bad_ndjson_lines(row, told):
    """The same, in the other format."""
    (line,) = _ndjson(row)
    assert isinstance(line, BadLine)
    assert str(line).startswith(told)


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_a_last_line_that_may_be_cut_off_is_not_sent(end):
    """Of an amount every beginning is an amount."""
    (line,) = read_lines(io.StringIO(f"{HEADER}\n{DEPOSIT.replace(',,,', '')[:-4]},,,{end}", newline=""), "csv")
    assert isinstance(line, Line if end else BadLine)
    if not end:
        assert str(line).startswith("line 2, ends without a line break")


def test_a_key_is_used_once():
    """The second line of a key is bad, and names the first."""
    assert [str(line) for line in _csv(DEPOSIT, BUY, "d1,trader_2,deposit,1,,,") if isinstance(line, BadLine)] == ["line 4, key: d1 stands in line 2 already"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "line 1: there is no header"),
        ("key,username\n", "line 1, header: kind is missing"),
        ("key,username,kind,colour\n", "line 1, header: 'colour' is not a column"),
        ("key,username,kind,key\n", "line 1, header: 'key' stands twice"),
        (HEADER + '\nk,"trader_1\n', "line 2: is not CSV"),
        (HEADER + "\n" + "x" * 20_000, "line 2: has more than 10000 characters"),
    ],
)
def test_a_file_that_cannot_be_read_on(text, told):
    """Ends the reading, with line and rule."""
    with pytest.raises(LoadFileInvalid, match=told):
        list(read_lines(io.StringIO(text, newline=""), "csv"))


def test_formats():
    """By suffix or option; standard input is NDJSON."""
    assert [format_of(name) for name in ("a.csv", "a.CSV", "a.ndjson", "a.jsonl", "-")] == ["csv", "csv", "ndjson", "ndjson", "ndjson"]
    assert format_of("a.txt", "csv") == "csv"
    with pytest.raises(LoadFileInvalid, match="--format"):
        format_of("a.txt")


def test_a_byte_order_mark_and_foreign_bytes(tmp_path):
    """The mark that spreadsheets write is no part of the first column; bytes that are not UTF-8 make a bad line, not a crash."""
    path = tmp_path / "a.csv"
    path.write_bytes(b"\xef\xbb\xbf" + f"{HEADER}\r\n{DEPOSIT}\r\n".encode() + b"k\xff,trader_1,deposit,5,,,\r\n")
    with open_text(str(path)) as source:
        good, bad = read_lines(source, "csv")
    assert isinstance(good, Line)
    assert "line 3, key:" in str(bad)


def test_users_are_read(tmp_path):
    """Names and addresses are made up where the file has none."""
    path = tmp_path / "users.csv"
    path.write_text("username,password,email\nTrader_1,Passw0rd!Passw0rd!,\ntrader_2,Passw0rd!Passw0rd!,two@example.org\n")
    users = read_users(path)
    assert [(user.username, user.email) for user in users.values()] == [("trader_1", "trader_1@example.com"), ("trader_2", "two@example.org")]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("username\ntrader_1\n", "line 1: the header has username and password"),
        ("username,password,colour\n", "line 1: the header"),
        ("username,password\nbob,Passw0rd!Passw0rd!\n", "line 2, username: 'bob' is not"),
        ("username,password\ntrader_1,short\n", "line 2, password: has fewer than 12 characters"),
        ("username,password\ntrader_1\n", "line 2: has another number of columns"),
        ("username,password\ntrader_1,Passw0rd!Passw0rd!", "line 2: ends without a line break"),
        ("username,password\ntrader_1,Passw0rd!Passw0rd!\nTRADER_1,Passw0rd!Passw0rd!\n", "line 3, username: trader_1 is there already"),
    ],
)
def test_bad_users_files(tmp_path, text, told):
    """Line and rule, and never a password."""
    path = tmp_path / "users.csv"
    path.write_text(text)
    with pytest.raises(UsersInvalid, match=told) as error:
        read_users(path)
    assert "short" not in str(error.value)
