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

    def revoke(self, *tls, seconds=172800):
        """The file of a revocation list with these certificates, to be renewed after so long; it takes the place of the
        one before."""
        with open(f"{self.dir}/ca.conf", "w", encoding="ascii") as f:
            f.write(f"[ca]\ndefault_ca = d\n[d]\ndatabase = {self.dir}/index\ncrlnumber = {self.dir}/number\n"
                    "default_md = sha256\ndefault_crl_days = 2\n")
        for name, text in (("index", ""), ("number", "01\n")):
            if not os.path.exists(f"{self.dir}/{name}"):
                with open(f"{self.dir}/{name}", "w", encoding="ascii") as f:
                    f.write(text)
        ca = ["openssl", "ca", "-config", f"{self.dir}/ca.conf", "-keyfile", f"{self.dir}/{self.name}.key", "-cert", self.ca]
        for t in tls:
            process.run([*ca, "-revoke", t["certificate"]])
        process.run([*ca, "-gencrl", "-crlsec", str(seconds), "-out", f"{self.dir}/crl.new"])
        os.rename(f"{self.dir}/crl.new", f"{self.dir}/crl.pem")
        return f"{self.dir}/crl.pem"

    def sign(self, common_name, file=None, subject=None, dns=()):
        """The `tls:` section for a host of that name. `subject` takes the place of the plain common name, as openssl
        writes it; `dns`: names in the subject alternative name."""
        base = f"{self.dir}/{file or common_name}"
        new = f"{base}.new"
        extension = ["-addext", "subjectAltName=" + ",".join(f"DNS:{d}" for d in dns)] if dns else []
        process.run(["openssl", "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj",
                     subject or f"/CN={common_name}", *extension, "-keyout", f"{new}.key", "-out", f"{new}.csr"])
        process.run(["openssl", "x509", "-req", "-copy_extensions", "copy", "-in", f"{new}.csr", "-CA", self.ca, "-CAkey",
                     f"{self.dir}/{self.name}.key", "-CAcreateserial", "-days", "2", "-out", f"{new}.pem"])
        os.rename(f"{new}.key", f"{base}.key")
        os.rename(f"{new}.pem", f"{base}.pem")
        return {"ca": self.ca, "certificate": f"{base}.pem", "key": f"{base}.key"}
