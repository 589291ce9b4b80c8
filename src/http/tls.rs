//! Whom to believe: certificates of the system, of the user, and of single hosts.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use super::HttpError;

/// The TLS configurations by host and port, each made when it is first needed.
#[derive(Debug)]
pub(super) struct Tls {
    /// Directories with a directory of certificates for each `HOST:PORT`, as Docker and Podman have them.
    host_dirs: Vec<PathBuf>,
    configs: Mutex<HashMap<String, Arc<ClientConfig>>>,
    roots: Mutex<Option<Arc<RootCertStore>>>,
}

impl Tls {
    pub(super) fn new(host_dirs: Vec<PathBuf>) -> Tls {
        Tls { host_dirs, configs: Mutex::default(), roots: Mutex::default() }
    }

    /// What to speak with `host`, a name and a port where that is not 443. `verify` says whether it has to prove who
    /// it is.
    pub(super) fn config(&self, host: &str, verify: bool) -> Result<Arc<ClientConfig>, HttpError> {
        let mut configs = self.configs.lock().unwrap_or_else(PoisonError::into_inner);
        let key = format!("{verify} {host}");
        if let Some(config) = configs.get(&key) {
            return Ok(Arc::clone(config));
        }
        let config = Arc::new(self.build(host, verify)?);
        configs.insert(key, Arc::clone(&config));
        Ok(config)
    }

    fn build(&self, host: &str, verify: bool) -> Result<ClientConfig, HttpError> {
        let provider = Arc::new(ring::default_provider());
        let own = self.of_host(host)?;
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|e| tls_error(host, e))?;
        let builder = match verify {
            true => {
                let mut roots = RootCertStore::clone(&*self.roots());
                for (path, certificate) in own.authorities {
                    let bad = |e: rustls::Error| HttpError::Certificates { path, reason: e.to_string() };
                    roots.add(certificate).map_err(bad)?;
                }
                builder.with_root_certificates(roots)
            }
            false => builder.dangerous().with_custom_certificate_verifier(Arc::new(Anybody { provider })),
        };
        match own.client {
            None => Ok(builder.with_no_client_auth()),
            Some((chain, key)) => builder.with_client_auth_cert(chain, key).map_err(|e| tls_error(host, e)),
        }
    }

    /// The authorities that the system trusts, or those of `SSL_CERT_FILE` and `SSL_CERT_DIR`.
    fn roots(&self) -> Arc<RootCertStore> {
        let mut roots = self.roots.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(roots.get_or_insert_with(|| {
            let found = rustls_native_certs::load_native_certs();
            for error in &found.errors {
                tracing::warn!("not all certificates can be used: {error}");
            }
            let mut store = RootCertStore::empty();
            store.add_parsable_certificates(found.certs);
            Arc::new(store)
        }))
    }

    /// What the directories of one host have: `*.crt` are authorities; `X.cert` and `X.key` prove who we are.
    fn of_host(&self, host: &str) -> Result<OfHost, HttpError> {
        let mut own = OfHost::default();
        for dir in &self.host_dirs {
            // A host has no slash, and so leads into no other directory.
            let Ok(entries) = dir.join(host).read_dir() else { continue };
            let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
            paths.sort();
            for path in paths {
                match path.extension().and_then(|extension| extension.to_str()) {
                    Some("crt") => {
                        let found = certificates(&path)?;
                        own.authorities.extend(found.into_iter().map(|found| (path.clone(), found)));
                    }
                    Some("cert") if own.client.is_none() => {
                        let key_path = path.with_extension("key");
                        let key = PrivateKeyDer::from_pem_file(&key_path)
                            .map_err(|e| HttpError::Certificates { path: key_path, reason: e.to_string() })?;
                        own.client = Some((certificates(&path)?, key));
                    }
                    _ => {}
                }
            }
        }
        Ok(own)
    }
}

#[derive(Default)]
struct OfHost {
    authorities: Vec<(PathBuf, CertificateDer<'static>)>,
    client: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, HttpError> {
    let bad = |reason: String| HttpError::Certificates { path: path.to_owned(), reason };
    let found: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
    match found.map_err(|e| bad(e.to_string()))? {
        none if none.is_empty() => Err(bad("there is none in it".to_owned())),
        found => Ok(found),
    }
}

fn tls_error(host: &str, error: rustls::Error) -> HttpError {
    HttpError::Tls { host: host.to_owned(), source: io::Error::other(error) }
}

/// Believes anybody to be who they say they are, for hosts that the user called insecure.
#[derive(Debug)]
struct Anybody {
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(
            message,
            certificate,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
