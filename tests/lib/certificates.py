"""Certificates of a test authority, made by openssl."""
import os
import shutil

from . import process


def why_not():
    """None, or what is missing."""
    return None if shutil.which("openssl") else "no openssl on this machine"


class Authority:
    def __init__(self, directory, name):
        self.dir, self.name = directory, name
        self.ca = f"{directory}/{name}.pem"
        process.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
                     "-days", "2", "-subj", f"/CN={name}", "-keyout", f"{directory}/{name}.key", "-out", self.ca])

    def sign(self, common_name, file=None):
        """The `tls:` section for a host of that name."""
        base = f"{self.dir}/{file or common_name}"
        new = f"{base}.new"
        process.run(["openssl", "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj",
                     f"/CN={common_name}", "-keyout", f"{new}.key", "-out", f"{new}.csr"])
        process.run(["openssl", "x509", "-req", "-in", f"{new}.csr", "-CA", self.ca, "-CAkey",
                     f"{self.dir}/{self.name}.key", "-CAcreateserial", "-days", "2", "-out", f"{new}.pem"])
        os.rename(f"{new}.key", f"{base}.key")
        os.rename(f"{new}.pem", f"{base}.pem")
        return {"ca": self.ca, "certificate": f"{base}.pem", "key": f"{base}.key"}
