"""People: what is accepted of names, passwords, addresses, phones and dates of birth."""

from datetime import date

import pytest
from pydantic import ValidationError

from schemas.identity import Login, Logout, ProfileUpdate, Refresh, Registration, age_error

VALID = {"username": "Alice_01", "email": "User@Example.com", "password": "Str0ng-Passw0rd", "first_name": "Ada", "last_name": "O'Neil-Smith"}

ACCEPTED = [
    ("username", "abcdef", "abcdef"),
    ("username", "A" * 30, "a" * 30),
    ("email", "user@example.com", "user@example.com"),
    ("email", "USER+tag@Example.COM", "user+tag@example.com"),
    ("first_name", "Zoë", "Zoë"),
    ("first_name", "Jean Luc", "Jean Luc"),
    ("last_name", " Lovelace ", "Lovelace"),
    ("last_name", "x" * 50, "x" * 50),
    ("phone", "+1 (555) 123-4567", "15551234567"),
    ("phone", "1234567890", "1234567890"),
    ("phone", "123456789012345", "123456789012345"),
    ("phone", None, None),
    ("date_of_birth", "1990-02-28", date(1990, 2, 28)),
    ("marketing_emails_consent", True, True),
]

REFUSED = [
    ("username", "abcde"),
    ("username", "a" * 31),
    ("username", "alice-01"),
    ("username", "alice 01"),
    ("username", "alicé01"),
    ("username", "<script>"),
    ("username", 123456),
    ("email", "user"),
    ("email", "user@"),
    ("email", "user@localhost"),
    ("email", "a" * 250 + "@example.com"),
    ("email", "user@example.com\nbcc:x@example.com"),
    ("password", "Sh0rt-Passw"),
    ("password", "Aa1-" + "x" * 125),
    ("password", "str0ng-passw0rd"),
    ("password", "STR0NG-PASSW0RD"),
    ("password", "Strong-Password"),
    ("password", "Str0ngPassw0rd"),
    ("first_name", ""),
    ("first_name", "   "),
    ("first_name", "x" * 51),
    ("first_name", "R2D2"),
    ("first_name", "<b>Ada</b>"),
    ("first_name", "-Ada"),
    ("last_name", "Bobby; DROP"),
    ("last_name", "javascript:alert(1)"),
    ("phone", "123456789"),
    ("phone", "1234567890123456"),
    ("phone", "call me"),
    ("phone", "12345678901 ext 5"),
    ("phone", 1234567890),
    ("date_of_birth", "28.02.1990"),
    ("date_of_birth", "1990-02-30"),
    ("marketing_emails_consent", "perhaps"),
    ("role", "admin"),
]


@pytest.mark.parametrize(("field", "given", "kept"), ACCEPTED, ids=lambda value: str(value)[:24])
def test_a_registration_keeps(field: str, given: object, kept: object) -> None:
    """What is accepted, and the one form in which it is kept."""
    assert getattr(Registration.model_validate(VALID | {field: given}), field) == kept


@pytest.mark.parametrize(("field", "value"), REFUSED, ids=lambda value: str(value)[:24])
def test_a_registration_refuses(field: str, value: object) -> None:
    """Each rule names its field, and no message repeats what was sent for a password."""
    with pytest.raises(ValidationError) as raised:
        Registration.model_validate(VALID | {field: value})
    assert [error["loc"][0] for error in raised.value.errors()] == [field]
    if field == "password":
        assert str(value) not in str(raised.value.errors(include_input=False))


@pytest.mark.parametrize("field", VALID)
def test_a_registration_needs(field: str) -> None:
    """The five fields that nobody can do without."""
    with pytest.raises(ValidationError) as raised:
        Registration.model_validate({name: value for name, value in VALID.items() if name != field})
    assert [error["loc"] for error in raised.value.errors()] == [(field,)]


def test_a_password_is_never_shown() -> None:
    """Neither the text form nor the dump of a model shows a password."""
    registration = Registration.model_validate(VALID)
    assert "Passw0rd" not in repr(registration) + str(registration) + registration.model_dump_json()


def test_a_login_takes_any_password_of_the_length() -> None:
    """A login tests no rule on signs, which would tell something of the password; too short ones are malformed; names are lower-cased alike."""
    assert Login.model_validate({"username": "ALICE_01", "password": "x" * 12}).username == "alice_01"
    for broken in ({"password": "x" * 11}, {"password": "x" * 129}, {"username": "alice"}):
        with pytest.raises(ValidationError):
            Login.model_validate({"username": "alice_01", "password": "x" * 12} | broken)


def test_small_bodies() -> None:
    """A refresh needs its token, within bounds; a logout nothing, but an object; unknown fields are refused everywhere."""
    assert Refresh.model_validate({"refresh_token": "x"})
    assert Logout.model_validate({})
    for model, body in ((Refresh, {}), (Refresh, {"refresh_token": ""}), (Refresh, {"refresh_token": "x" * 513}), (Logout, {"x": 1}), (Logout, None)):
        with pytest.raises(ValidationError):
            model.model_validate(body)


def test_a_profile_update_changes_something() -> None:
    """Any of the fields, at least one; a username or a password is not changed here."""
    assert ProfileUpdate.model_validate({"phone": "1234567890"}).model_fields_set == {"phone"}
    for body in ({}, {"username": "other_name"}, {"password": "Str0ng-Passw0rd"}):
        with pytest.raises(ValidationError):
            ProfileUpdate.model_validate(body)


@pytest.mark.parametrize(
    ("born", "right"),
    [
        (date(2013, 11, 25), True),
        (date(2013, 11, 26), False),
        (date(1906, 11, 25), True),
        (date(1905, 11, 26), True),
        (date(1905, 11, 25), False),
        (date(2027, 1, 1), False),
    ],
)
def test_age_is_counted_in_whole_years(born: date, right: bool) -> None:
    """13 to 120 on the day, birthdays included."""
    assert (age_error(born, date(2026, 11, 25)) is None) is right
