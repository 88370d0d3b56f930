//! Who vouches for servers of tests that speak TLS.
//!
//! Certificates are for this machine's loopback address. Clients trust them where they are told to trust
//! the authority, as `SSL_CERT_FILE` does.

use anyhow::Result;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};

/// An authority of its own, that nobody trusts yet.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

/// A server's certificate with its key, as PEM.
#[derive(Clone)]
pub struct Certificate {
    /// The certificate.
    pub pem: String,
    /// Its private key.
    pub key: String,
}

impl Authority {
    /// Draws its keys.
    pub fn new() -> Result<Self> {
        let key = KeyPair::generate()?;
        let mut about = CertificateParams::default();
        about.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let name = "authority of a test";
        about.distinguished_name.push(DnType::CommonName, name);
        let pem = about.self_signed(&key)?.pem();
        let issuer = Issuer::new(about, key);
        Ok(Self { issuer, pem })
    }

    /// Its own certificate, which those trust who trust it.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// A certificate for `127.0.0.1`, valid from 2000 until the first day of that year.
    pub fn certificate(&self, until: i32) -> Result<Certificate> {
        let key = KeyPair::generate()?;
        let mut about = CertificateParams::new(["127.0.0.1".to_owned()])?;
        about.not_before = date_time_ymd(2000, 1, 1);
        about.not_after = date_time_ymd(until, 1, 1);
        let pem = about.signed_by(&key, &self.issuer)?.pem();
        let key = key.serialize_pem();
        Ok(Certificate { pem, key })
    }
}
