"""Texts that only stand for a secret: templates, references, hashes, placeholders, and secrets that are in print.

No rule may meet a random secret by chance: base64, hex and UUIDs have no ``$``, ``:``, ``.`` or brackets, and words of
six letters come about once in millions of secrets.
"""

import hashlib
import re
from functools import cache
from itertools import product

from mlguard.auth._published import is_in_print

# References -----------------------------------------------------------------------------------------------------------

_SCHEMES = (
    "arn|aws|awssm|azure|cmd|conjur|data|doppler|enc|encrypted|env|environment|exec|file|gcp|gsm|k8s|keychain|keyring"
    "|keyvault|kms|kube|kubernetes|literal|op|pass|plain|ref|secrets?|secrets?manager|sm|sops|ssm|urn|var|vault"
)
#: What a template, a shell or a secret store should have replaced by the secret: how it begins.
_REFERENCE = re.compile(
    rf"""
      \$(?:\w+(?:[,;:./-]\$\w+)*$|[({{\[]+\ ?[a-z_]\w\w|env:)      # $TOKEN  $A,$B  $(TOKEN)  $[TOKEN]  $env:TOKEN
    | %\w+%$|%[({{]\w+[)}}]|@\w+@$|@Microsoft\.\w+\(|\#{{\ ?\w\w\w       # %TOKEN%  %(TOKEN)s  @TOKEN@  #{{TOKEN}}#
    | <.*>$|[\[({{](?=.*[g-z])[\w\ .:/,+=(){{}}<>\[\]-]*[\])}}]$        # <token>  [token]  {{token}}, but no {{UUID}}
    | (?:\.{{1,2}}|~)/[\w.-]{{3}}|[a-z]:\\[\w\ .-]+\\|\\\\[\w.-]+\\                  # ./token  C:\secrets\token
    | /(?:app|data|etc|home|mnt|opt|root|run|secrets|srv|tmp|usr|var|vault)/
    | [a-z][a-z0-9+.-]*://|(?:{_SCHEMES})(?:[+.-]\w+)*:                # awssm://token  env:TOKEN  vault:token#field
    | (?:deno|env|import\.meta|os|process|secrets|self|system|vars?)\.[a-z]  # os.environ["TOKEN"]  secrets.TOKEN
    | (?:env|file|getenv|lookup|secret|var)[(\[]|enc[(\[]              # getenv("TOKEN")  ENC[AES256_GCM,...]
    | !(?:env(?:_var)?|encrypted|getatt|importvalue|ref|secret|sub|vault)\b  # !Ref Token
    | projects/[^/]+/secrets/
    | (?:[a-z]+(?:error|exception)|error|traceback)[:(\ ]              # what a failed look-up said
    """.encode(),
    re.IGNORECASE | re.VERBOSE,
)
#: A file, a host or a URL without its scheme. Lower case, unlike what is random.
_FILE = re.compile(rb"[\w./ -]+\.(?:cer|conf|crt|der|env|ini|jks|json|jwk|key|p12|pem|pfx|secret|toml|token|txt|ya?ml)")
_HOST = re.compile(rb"(?:[\w.+-]+@)?(?:[a-z0-9-]+\.)+[a-z]{2,6}(?::[0-9]+)?(?:/[ -~]*)?")
#: The name of a variable: ALICE_PRODUCTION_TOKEN_2.
_VARIABLE = re.compile(rb"_*[A-Z]{2,14}[0-9]{0,4}(?:_+(?:[A-Z]{1,14}[0-9]{0,4}|[0-9]{1,4}))+_*")
#: A path or a dotted name of words in lower case: secret/data/alice#token
_DOTTED = re.compile(rb"[a-z]{1,16}(?:[-_][a-z]{1,16})*[0-9]{0,4}(?:[/.#][a-z]{1,16}(?:[-_+][a-z]{1,16})*[0-9]{0,4})+")
_DATE = re.compile(rb"[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9:.+Z-]+")
_WORDS = re.compile(rb"[A-Z]?[a-z]+|[A-Z]+|[0-9]{1,4}")
_NAMING = frozenset(b"apikey credential credentials key keys password secret secrets todo token tokens".split())
_MOST_NUMBERS = 2  # in a name
_LONGEST_WORD = 20  # letters; behind a prefix such as "token_" there are more
_VISIBLE = re.compile(rb"[ -~]+")
#: Somewhere in the text, with a name inside.
_TEMPLATE = re.compile(rb"\$\{[A-Za-z_]\w*[^{}]*\}|\$\([A-Za-z][\w ./-]+\)|\{\{[^{}]+\}\}|<%[=\w ][^<>%]*%>")
_LONGEST_BY_CHANCE = 256  # bytes; in more random text than that, a template or a word comes about by chance


def is_reference(text: bytes) -> bool:
    """Whether it is the name or the place of a secret, which nobody filled in or read."""
    text = text.strip(b"\"'` ")
    if not _VISIBLE.fullmatch(text):
        return False
    # Every 64th base64 secret starts with "/". Those have capitals, unlike most paths.
    if text.startswith(b"/") and text == text.lower():
        return True
    if _REFERENCE.match(text) or (len(text) <= _LONGEST_BY_CHANCE and _TEMPLATE.search(text)):
        return True
    return any(name.fullmatch(text) for name in (_FILE, _HOST, _VARIABLE, _DOTTED, _DATE)) or _is_description(text)


def _is_description(text: bytes) -> bool:
    """Whether it says in words which secret it stands for: ``the-token-of-alice``, ``aliceProductionToken``.

    A passphrase is words too. Only one that has a word such as ``token`` among its words is taken for a name. The
    letters of random text make words as well, of one to three letters, and with numbers between them: ``key-`` before
    such text is no name.
    """
    words = _WORDS.findall(text)
    if _NAMING.isdisjoint(word.lower() for word in words) or sum(map(bytes.isdigit, words)) > _MOST_NUMBERS:
        return False
    lengths = [len(word) for word in words]
    return sum(lengths) >= 4 * len(words) and max(lengths) <= _LONGEST_WORD


# Hashes ---------------------------------------------------------------------------------------------------------------

#: The names of hashes, as they stand before a digest.
HASH_NAME = re.compile(
    r"(?:hmac[-_])?(?:s?sha-?[0-9]*(?:[-/_][0-9]{3})?|s?md[45]|blake[23][bs]?|bcrypt|scrypt|argon2(?:id|i|d)?|pbkdf2"
    r"|ripemd-?160|ntlm)",
    re.IGNORECASE,
)
_HASHED = re.compile(
    rf"""
    (?:[\w.@+-]{{1,64}}:)?(?:                                          # alice:$2b$...  as in a password file
      {{?(?:{HASH_NAME.pattern})[:=$}}]|sha-?(?:256|384|512)           # sha256:...  sha512-...
    | {{(?:x-)?[\w.-]*(?:sha|md5|hash|crypt|pbkdf2|argon2|noop|plain|cleartext|cipher|scram|fshp)[^{{}}]*}}  # {{SSHA}}
    | \$(?:2[abxy]?|[135-9hpsy]|gy|apr1|[\w-]*(?:{HASH_NAME.pattern}|crypt)[\w-]*)[,$]  # $2b$  $pbkdf2-sha256$  $P$
    | [\w:.,|+-]{{0,64}}?(?:{HASH_NAME.pattern}|crypt)[\w:.,|+-]{{0,64}}\$  # pbkdf2_sha256$...  scrypt:32768:8:1$...
    )
    | (?:md5[0-9a-f]{{32}}|\*[0-9a-f]{{40}})$|grub\.pbkdf2             # PostgreSQL, MySQL, GRUB
    """.encode(),
    re.IGNORECASE | re.VERBOSE,
)


def is_hash(text: bytes) -> bool:
    """Whether it says of itself that it is the hash of a password, as databases and password files have it."""
    return _HASHED.match(text.strip(b"\"'` ")) is not None


# Known to everybody ---------------------------------------------------------------------------------------------------

# Placeholders that people leave in.
_PLACEHOLDERS = (
    b"changeme", b"change-me", b"change_me", b"changethis", b"change-this", b"replace-me", b"replaceme", b"password",
    b"passw0rd", b"your-", b"your_", b"yoursecret", b"example", b"insecure", b"secret-key", b"secret_key", b"secretkey",
    b"supersecret", b"super-secret", b"super_secret", b"not-a-secret", b"correcthorse", b"test-shared-secret",
    b"change_this", b"replace_me", b"replacethis", b"replace-this", b"placeholder", b"passphrase", b"p@ssw0rd",
    b"notasecret", b"topsecret", b"top-secret", b"mysecret", b"my-secret", b"my_secret", b"yourtoken", b"yourapikey",
    b"redacted", b"do-not-use", b"donotuse", b"helloworld", b"hello-world", b"qwertyui", b"signing-key", b"signing_key",
    b"signing-secret", b"shared-secret", b"shared_secret", b"dummy-", b"dummy_", b"foobar", b"s3cr3t", b"todo-",
    b"*******", b"lorem-ipsum", b"lorem ipsum", b"loremipsum", b"1qaz2wsx", b"31415926535", b"27182818284",
)  # fmt: skip
#: In base64 these come about by chance, so there they count only if all letters have one case.
_SHORT_PLACEHOLDERS = frozenset(word for word in _PLACEHOLDERS if len(word) <= 6)


def is_published(text: bytes) -> bool:
    """Whether it is a placeholder, or a secret from documentation, in any case and in hex or base64."""
    folded = text.lower()
    one_case = text in {folded, text.upper()}
    if is_in_print(text):
        return True
    return len(text) <= _LONGEST_BY_CHANCE and any(
        word in folded and (one_case or word not in _SHORT_PLACEHOLDERS) for word in _PLACEHOLDERS
    )


_COMMON = (
    "", "0", "1", "12", "123", "1234", "12345", "123456", "1234567", "12345678", "123456789", "1234567890", "0000",
    "1111", "111111", "123123", "654321", "a", "abc", "abcd", "abc123", "admin", "admin123", "administrator", "alice",
    "api", "apikey", "api-key", "api_key", "asdf", "bar", "baz", "billing", "bob", "change me", "change-me",
    "change_me", "changeit", "changeme", "changethis", "client", "correct horse battery staple",
    "correcthorsebatterystaple", "data", "default", "demo", "dev", "development", "dragon", "dummy", "example",
    "false", "fastapi", "foo", "foobar", "guest", "hello", "hello world", "hello, world", "hello, world!",
    "helloworld", "hunter2", "iloveyou", "insecure", "key", "letmein", "localhost", "login", "master", "me", "mlguard",
    "model", "monkey", "my secret", "my-secret", "my_secret", "mykey", "mypassword", "mysecret", "mysecretkey", "n/a",
    "nil", "none", "nothing", "null", "p@ssw0rd", "partner", "pass", "passphrase", "passw0rd", "passwd", "password",
    "password1", "password123", "placeholder", "private", "prod", "production", "public", "qwerty", "qwerty123",
    "root", "s3cr3t", "sample", "secret", "secret key", "secret-key", "secret123", "secret_key", "secretkey",
    "secrets", "server", "service", "signing", "staging", "string", "super secret", "super-secret", "super_secret",
    "supersecret", "supersecretkey", "temp", "test", "test123", "tester", "testing",
    "the quick brown fox jumps over the lazy dog", "the quick brown fox jumps over the lazy dog.", "todo", "token",
    "topsecret", "true", "undefined", "user", "username", "value", "welcome", "world", "x", "xxx", "your-secret",
    "yoursecret",
)  # fmt: skip
_HASHES = ("md5", "sha1", "sha224", "sha256", "sha384", "sha512", "sha3_256", "sha3_512", "blake2b", "blake2s")


def is_digest_of_a_common_word(data: bytes) -> bool:
    """Whether these bytes are what an ordinary hash makes of nothing, of ``password`` or of another such word."""
    return data in _digests()


@cache
def _digests() -> frozenset[bytes]:
    """Each word as it is, capitalised and in capitals, and with the line feed that ``echo`` adds."""
    words = {case + end for word in _COMMON for case in (word, word.capitalize(), word.upper()) for end in ("", "\n")}
    return frozenset(
        hashlib.new(name, word.encode(), usedforsecurity=False).digest() for name, word in product(_HASHES, words)
    )
