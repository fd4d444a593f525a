"""What a field's name says about its value: ``customerEmail``, ``e_mail``, ``Telefonnummer``.

A name is read as words, split at separators and at capitals, without the number at its end. It names a kind if its last
words, put together, are one of the known: so ``customer-email`` is a mail address, and ``emailed_at`` is none.
"""

import re
import unicodedata
from collections.abc import Mapping

from mlguard.errors import ConfigurationError

#: The kinds of datum that names of fields tell, with the names, in lower case and without separators.
FIELD_NAMES: Mapping[str, frozenset[str]] = {
    kind: frozenset(names.split())
    for kind, names in {
        "email": "email emails mail emailaddress emailaddresses mailaddress emailadresse mailadresse courriel "
        "adressemail adresseemail correo correoelectronico correioeletronico postaelettronica emailadres",
        "phone": "phone phones phonenumber phonenumbers telephone telephonenumber tel telno mobile mobilephone "
        "mobilenumber cellphone cellnumber fax faxnumber msisdn telefon telefonnummer handy handynummer mobil "
        "mobilnummer faxnummer numerodetelephone telefono telefonos movil celular telefone cellulare telefoonnummer "
        "telefoon mobielnummer numertelefonu puhelin",
        "name": "firstname lastname middlename fullname surname forename givenname familyname maidenname realname "
        "username birthname personname customername patientname employeename vorname nachname familienname geburtsname "
        "benutzername prenom nomdefamille nomcomplet apellido apellidos nombrecompleto cognome sobrenome nomecompleto "
        "achternaam voornaam nazwisko imie fornamn efternamn",
        "address": "address homeaddress postaladdress streetaddress billingaddress shippingaddress street streetname "
        "addressline postcode postalcode zipcode zip adresse anschrift strasse straße hausnummer plz postleitzahl rue "
        "codepostal direccion calle codigopostal indirizzo endereco cep adres adress ulica",
        "birth_date": "birthdate birthday dateofbirth dob bday geburtsdatum geburtstag datedenaissance "
        "fechadenacimiento fechanacimiento datadinascita datanascita datadenascimento datanascimento geboortedatum "
        "dataurodzenia fodelsedatum",
        "card": "cardnumber creditcard creditcardnumber debitcard ccnumber ccnum cardno kreditkarte "
        "kartennummer kreditkartennummer numerodecarte tarjeta numerodetarjeta",
        "iban": "iban bankaccount bankaccountnumber accountnumber kontonummer bankverbindung",
        "ip": "ip ipaddress ipaddr ipv clientip remoteip remoteaddr remoteaddress xforwardedfor xrealip ipadresse",
        "national_id": "ssn socialsecuritynumber socialsecurity nationalid nationalidnumber nationalinsurancenumber "
        "nino taxid taxpayerid taxnumber passport passportnumber idcard idcardnumber identitynumber driverslicense "
        "driverlicense licencenumber steuerid steueridentifikationsnummer idnr sozialversicherungsnummer svnr "
        "personalausweis ausweisnummer reisepass numerodesecuritesociale dni nie nif codicefiscale pesel bsn "
        "burgerservicenummer cpf personnummer aadhaar aadhar curp",
        "secret": "password passwords passwd pwd passphrase passcode passwort kennwort motdepasse contrasena senha "
        "wachtwoord secret secrets clientsecret secretkey secretaccesskey token accesstoken refreshtoken idtoken "
        "apitoken authtoken sessiontoken csrftoken apikey apikeys accesskey privatekey signingkey encryptionkey "
        "masterkey authorization proxyauthorization authorizationheader cookie cookies setcookie sessionid sid jwt "
        "bearer otp totp mfacode pin pincode cvv cvc securitycode credential credentials xapikey",
    }.items()
}
#: The kinds that names of fields tell.
KINDS = frozenset(FIELD_NAMES)

_MAX_NAME = 128  # characters; a longer one is a text
_MAX_WORDS = 5
_WORD = re.compile(r"[^\W\d_]+|\d+")
_CAPITAL = re.compile(r"(?<=[a-zß-ÿ\d])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_LABEL = re.compile(r"(?<![^\W_])\[\w+\]")  # what a mask has put there; "user[email]" is a name, as forms write it
_MAX_KNOWN = 4_096  # names whose kind is remembered


class FieldNames:
    """Knows which names of fields name a person's datum or a secret.

    Args:
        kinds: The kinds that are looked for.
        more: Further names with their kinds, and None for those that name nothing.

    Raises:
        ConfigurationError: A name without a letter, or a kind that is no word.
    """

    def __init__(self, kinds: frozenset[str], more: Mapping[str, str | None]) -> None:
        self._kinds: dict[str, str | None] = {
            name: kind for kind, names in FIELD_NAMES.items() if kind in kinds for name in names
        }
        for name, kind in more.items():
            written = "".join(_words(name)) if isinstance(name, str) else ""
            if not written or not (kind is None or (isinstance(kind, str) and kind.isidentifier())):
                raise ConfigurationError(
                    "PIISearch(fields=...) are names with kinds, such as {'shoe_size': 'health'}, or None for no kind"
                )
            self._kinds[written] = kind
        self._known: dict[str, str | None] = {}

    def kind(self, name: str) -> str | None:
        """The kind that the name tells, or None."""
        if name in self._known:
            return self._known[name]
        kind = self._find(name) if len(name) <= _MAX_NAME else None
        if len(self._known) < _MAX_KNOWN and len(name) <= _MAX_NAME:
            self._known[name] = kind
        return kind

    def _find(self, name: str) -> str | None:
        words = _words(_LABEL.sub(" ", name))
        for count in range(min(len(words), _MAX_WORDS), 0, -1):
            ending = "".join(words[-count:])
            if ending in self._kinds:
                return self._kinds[ending]
        return None


def _words(name: str) -> list[str]:
    """The words of a name in lower case and without accents, and without the numbers at its end."""
    spaced = _CAPITAL.sub(" ", unicodedata.normalize("NFKC", name))
    bare = "".join([one for one in unicodedata.normalize("NFD", spaced) if not unicodedata.combining(one)])
    words = _WORD.findall(bare.lower())
    while words and words[-1].isdigit():
        words.pop()
    return words
