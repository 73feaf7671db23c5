"""Apache Kafka that asks who is there: SCRAM over TLS, certificates of clients, and rights for each user.

The authority, its certificates and the password are made for one test run.
"""

import datetime as dt
import ipaddress
import secrets
from pathlib import Path

from confluent_kafka.admin import (
    AclBinding,
    AclOperation,
    AclPermissionType,
    ResourcePatternType,
    ResourceType,
)
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from connectors.kafka import admin_client, client_config
from tests.apache_kafka import ApacheKafka, free_ports

USER = "aureon"

SECURITY = """
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port},\
SASL_SSL://127.0.0.1:{scram_port},SSL://127.0.0.1:{mutual_port}
advertised.listeners=PLAINTEXT://127.0.0.1:{port},SASL_SSL://127.0.0.1:{scram_port},SSL://127.0.0.1:{mutual_port}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SASL_SSL:SASL_SSL,SSL:SSL
ssl.keystore.type=PEM
ssl.keystore.location={folder}/broker.pem
ssl.truststore.type=PEM
ssl.truststore.location={folder}/authority.pem
listener.name.ssl.ssl.client.auth=required
listener.name.ssl.ssl.principal.mapping.rules=RULE:^CN=([^,]+).*$/$1/
listener.name.sasl_ssl.sasl.enabled.mechanisms=SCRAM-SHA-512
listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config=\
org.apache.kafka.common.security.scram.ScramLoginModule required;
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
# Whoever comes without a password is the broker itself, or a test that sets something up.
super.users=User:ANONYMOUS
"""


class Authority:
    """Signs certificates, and is trusted where its own is."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authority")])
        builder = self._builder(self._name, self._key.public_key())
        ca = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        path.write_bytes(ca.sign(self._key, hashes.SHA256()).public_bytes(Encoding.PEM))

    def issue(self, path: Path, name: str) -> Path:
        """Write a key and its certificate, for a client or for whatever listens on 127.0.0.1."""
        key = ec.generate_private_key(ec.SECP256R1())
        builder = self._builder(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]), key.public_key())
        places = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        certificate = builder.add_extension(places, critical=False).sign(self._key, hashes.SHA256())
        text = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        path.write_bytes(text + certificate.public_bytes(Encoding.PEM))
        return path

    def _builder(self, name: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        now = dt.datetime.now(dt.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(days=1))
            .not_valid_after(now + dt.timedelta(days=1))
        )


class SecureKafka(ApacheKafka):
    """One node with a listener for passwords and one for certificates, where the user `aureon` may do nothing yet."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._scram_port, self._mutual_port = free_ports(2)
        # As long as no log holds it by chance; the semicolon does not fit into a variable, and fits into a file.
        self.password = secrets.token_hex(16) + ";="
        self.folder.mkdir(parents=True)
        self.authority = Authority(self.folder / "authority.pem")
        self.authority.issue(self.folder / "broker.pem", "broker")

    @property
    def scram_brokers(self) -> str:
        """Where a user with a password is let in."""
        return f"127.0.0.1:{self._scram_port}"

    @property
    def mutual_brokers(self) -> str:
        """Where a user with a certificate is let in."""
        return f"127.0.0.1:{self._mutual_port}"

    def properties(self) -> str:
        """Its configuration; of a property that comes twice, the last counts."""
        return super().properties() + SECURITY.format(
            folder=self.folder,
            port=self.place.port,
            controller_port=self.place.controller_port,
            scram_port=self._scram_port,
            mutual_port=self._mutual_port,
        )

    def format_options(self) -> list[str]:
        """The user, with the password."""
        return ["--add-scram", f"SCRAM-SHA-512=[name={USER},password={self.password}]"]

    def grant(self, kind: ResourceType, prefix: str, *operations: AclOperation) -> None:
        """Allow the user operations on all whose name begins so."""
        pattern = ResourcePatternType.PREFIXED
        rule = (f"User:{USER}", "*")
        bindings = [AclBinding(kind, prefix, pattern, *rule, o, AclPermissionType.ALLOW) for o in operations]
        client = admin_client(client_config(self.brokers))
        for future in client.create_acls(bindings).values():
            future.result()
