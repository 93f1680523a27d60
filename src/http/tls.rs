//! HTTPS: certificate and key from PEM files into a rustls configuration.

use std::path::{Path, PathBuf};

use rustls::{
    ServerConfig,
    crypto::{CryptoProvider, ring},
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};

/// Why HTTPS cannot be offered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// A PEM file cannot be read or holds nothing usable.
    #[error("{key} = {}: {source}", path.display())]
    Pem {
        /// The configuration's key.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: rustls_pki_types::pem::Error,
    },
    /// The certificate file holds no certificate.
    #[error("http.tls_certificate = {}: there is no certificate in it", .0.display())]
    NoCertificate(PathBuf),
    /// Certificate and key do not go together, or cannot be used.
    #[error("http.tls_certificate and http.tls_key cannot be used together: {0}")]
    Unusable(#[from] rustls::Error),
}

/// Makes ring the process-wide crypto provider, unless there is one already. Called once at start, before anything
/// uses TLS or DTLS: without a choice rustls panics when more than one provider is linked in.
pub fn install_crypto_provider() {
    if CryptoProvider::get_default().is_none()
        && ring::default_provider().install_default().is_err()
    {
        tracing::debug!("another thread installed a crypto provider first");
    }
}

/// The server's side of TLS 1.2 and 1.3, HTTP/1.1.
pub(super) fn server_config(certificate: &Path, key: &Path) -> Result<ServerConfig, TlsError> {
    install_crypto_provider();
    let failed = |name: &'static str, path: &Path| {
        let path = path.to_owned();
        move |source| TlsError::Pem {
            key: name,
            path,
            source,
        }
    };
    let chain = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(failed("http.tls_certificate", certificate))?;
    if chain.is_empty() {
        return Err(TlsError::NoCertificate(certificate.to_owned()));
    }
    let key = PrivateKeyDer::from_pem_file(key).map_err(failed("http.tls_key", key))?;
    let mut config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}
