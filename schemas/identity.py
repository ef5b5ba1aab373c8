"""People: what they send to register and log in, and what is kept of them."""

import re
from datetime import date
from typing import Annotated, Final, Self

from email_validator import EmailNotValidError, validate_email
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, field_validator, model_validator

from schemas.instants import Instant

USERNAME_MIN, USERNAME_MAX = 6, 30
PASSWORD_MIN, PASSWORD_MAX = 12, 128
AGE_MIN, AGE_MAX = 13, 120
_NAME: Final = re.compile(r"^[^\W\d_](?:[^\W\d_]|[ '\-])*$")
_PASSWORD_RULES: Final = (
    (re.compile(r"[A-Z]"), "an upper-case letter"),
    (re.compile(r"[a-z]"), "a lower-case letter"),
    (re.compile(r"[0-9]"), "a digit"),
    (re.compile(r"[^A-Za-z0-9]"), "a sign that is neither letter nor digit"),
)


def _username(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_]+", value):
        raise ValueError("may have letters, digits and underscores only")
    return value.lower()


def _password(value: SecretStr) -> SecretStr:
    if not PASSWORD_MIN <= len(value) <= PASSWORD_MAX:
        raise ValueError(f"must have {PASSWORD_MIN} to {PASSWORD_MAX} characters")
    missing = [name for rule, name in _PASSWORD_RULES if not rule.search(value.get_secret_value())]
    if missing:
        raise ValueError(f"must have {', '.join(missing)}")
    return value


def _email(value: str) -> str:
    try:
        return validate_email(value, check_deliverability=False, test_environment=False).normalized.lower()
    except EmailNotValidError as error:
        raise ValueError(str(error)) from None


def _name(value: str) -> str:
    text = value.strip()
    if not _NAME.fullmatch(text):
        raise ValueError("may have letters, spaces, apostrophes and hyphens only, and begins with a letter")
    return text


def _phone(value: object) -> object:
    if not isinstance(value, str):
        return value
    if not re.fullmatch(r"\+?[0-9 ().\-]+", value):
        raise ValueError("may have digits, spaces, parentheses, dots, hyphens and a leading + only")
    digits = re.sub(r"[^0-9]", "", value)
    if not 10 <= len(digits) <= 15:  # noqa: PLR2004 - the rule itself, ITU-T E.164 has at most 15
        raise ValueError("must have 10 to 15 digits")
    return digits


UsernameField = Annotated[str, Field(min_length=USERNAME_MIN, max_length=USERNAME_MAX), AfterValidator(_username)]
NewPassword = Annotated[SecretStr, AfterValidator(_password), Field(json_schema_extra={"minLength": PASSWORD_MIN, "maxLength": PASSWORD_MAX})]
EmailField = Annotated[str, Field(min_length=3, max_length=254), AfterValidator(_email)]
NameField = Annotated[str, Field(min_length=1, max_length=50), AfterValidator(_name)]
PhoneField = Annotated[str, BeforeValidator(_phone)]


class Body(BaseModel):
    """A request body: unknown fields are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Registration(Body):
    """A new user."""

    username: UsernameField
    email: EmailField
    password: NewPassword
    first_name: NameField
    last_name: NameField
    phone: PhoneField | None = None
    date_of_birth: date | None = None
    marketing_emails_consent: bool = False


class Login(Body):
    """Credentials. Too short ones cannot be right and are told as malformed."""

    username: UsernameField
    password: Annotated[SecretStr, Field(min_length=PASSWORD_MIN, max_length=PASSWORD_MAX)]


class Refresh(Body):
    """A refresh token to be spent for new tokens."""

    refresh_token: Annotated[str, Field(min_length=1, max_length=512)]


class Logout(Body):
    """Nothing is needed; the body must be a JSON object all the same."""


class ProfileUpdate(Body):
    """Any of the fields of a profile that may change; null removes a phone number or a date of birth."""

    first_name: NameField | None = None
    last_name: NameField | None = None
    email: EmailField | None = None
    phone: PhoneField | None = None
    date_of_birth: date | None = None

    @field_validator("first_name", "last_name", "email", mode="before")
    @classmethod
    def _not_null(cls, value: object) -> object:
        if value is None:
            raise ValueError("cannot be removed")
        return value

    @model_validator(mode="after")
    def _something(self) -> Self:
        if not self.model_fields_set:
            raise ValueError("names no field to change")
        return self


def age_error(born: date, today: date) -> str | None:
    """The rule on age that a date of birth breaks, or None. Today is the caller's: a model has no clock."""
    age = today.year - born.year - ((today.month, today.day) < (born.month, born.day))
    return None if AGE_MIN <= age <= AGE_MAX else f"age must be {AGE_MIN} to {AGE_MAX} years"


class Profile(BaseModel):
    """What a user sees of themself."""

    username: str
    email: str
    first_name: str
    last_name: str
    phone: str | None = None
    date_of_birth: date | None = None
    marketing_emails_consent: bool = False
    created_at: Instant
    updated_at: Instant


class Message(BaseModel):
    """A plain confirmation."""

    message: str


class ProfileUpdated(BaseModel):
    """The answer to a changed profile."""

    message: str
    user: Profile


class Tokens(BaseModel):
    """The answer to a login or a refresh. `expires_in` is in seconds."""

    access_token: str
    token_type: str = "bearer"  # noqa: S105 - the scheme's name, RFC 6750
    expires_in: int
    refresh_token: str
