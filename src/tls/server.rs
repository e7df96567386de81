//! TLS of the listeners: certificate and key, read again when they change.

use std::{
    fmt,
    fs::File,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use parking_lot::{Mutex, RwLock};
use rustls::{
    RootCertStore, ServerConfig,
    crypto::aws_lc_rs,
    pki_types::{
        CertificateDer, PrivateKeyDer,
        pem::{self, PemObject},
    },
    server::WebPkiClientVerifier,
};
use sha2::{Digest, Sha256};
use tokio::{sync::watch, task::spawn_blocking, time::timeout};

use super::{SetupError, of_file, unusable};
use crate::config::text_of;

/// How often the files are looked at: three times within the 30 s in which a change takes effect.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// Largest file that is read. The authorities of a whole system take 250 KiB.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Protocols that a listener speaks over TLS, the preferred one first.
const PROTOCOLS: [&[u8]; 2] = [HTTP_2, b"http/1.1"];

/// The name of HTTP/2 in ALPN.
pub(crate) const HTTP_2: &[u8] = b"h2";

/// The files from which a listener has its certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Files {
    /// Certificate, followed by those of the authorities between.
    pub certificate: PathBuf,
    /// Private key of the certificate.
    pub key: PathBuf,
    /// Authorities that sign certificates of clients. `None`: no client is asked for one.
    pub client_ca: Option<PathBuf>,
}

/// The texts of [`Files`].
struct Texts {
    certificate: String,
    key: String,
    client_ca: Option<String>,
}

impl Files {
    fn texts(&self) -> Result<Texts, SetupError> {
        let read = |path: &Path| {
            let text = File::open(path).and_then(|file| text_of(file, FILE_BYTES_MAX));
            text.map_err(|error| of_file(path, pem::Error::Io(error)))
        };
        Ok(Texts {
            certificate: read(&self.certificate)?,
            key: read(&self.key)?,
            client_ca: self.client_ca.as_deref().map(read).transpose()?,
        })
    }

    /// Returns the settings of a server with what the files hold.
    ///
    /// # Errors
    /// [`SetupError`] with the file that cannot be read, or that does not fit the others.
    pub(crate) fn config(&self) -> Result<ServerConfig, SetupError> {
        self.config_of(&self.texts()?)
    }

    fn config_of(&self, texts: &Texts) -> Result<ServerConfig, SetupError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| unusable(&self.certificate, error))?;
        let builder = match (&self.client_ca, &texts.client_ca) {
            (Some(path), Some(text)) => {
                let mut roots = RootCertStore::empty();
                for certificate in certificates(path, text)? {
                    roots.add(certificate).map_err(|error| unusable(path, error))?;
                }
                let roots = Arc::new(roots);
                let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider).build();
                builder.with_client_cert_verifier(verifier.map_err(|error| unusable(path, error))?)
            }
            _ => builder.with_no_client_auth(),
        };
        let chain = certificates(&self.certificate, &texts.certificate)?;
        let key = PrivateKeyDer::from_pem_slice(texts.key.as_bytes())
            .map_err(|source| of_file(&self.key, source))?;
        // Also checks that the key is the one of the certificate.
        let config = builder.with_single_cert(chain, key);
        let mut config = config.map_err(|error| unusable(&self.key, error))?;
        config.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).to_vec();
        Ok(config)
    }
}

/// Returns the certificates of a text, at least one.
fn certificates(path: &Path, text: &str) -> Result<Vec<CertificateDer<'static>>, SetupError> {
    let found = CertificateDer::pem_slice_iter(text.as_bytes()).collect::<Result<Vec<_>, _>>();
    match found {
        Ok(found) if found.is_empty() => Err(of_file(path, pem::Error::NoItemsFound)),
        Ok(found) => Ok(found),
        Err(source) => Err(of_file(path, source)),
    }
}

impl Texts {
    /// Returns by what a change is found. The key itself is not kept.
    fn digest(&self) -> [u8; 32] {
        let mut digest = Sha256::new();
        let client_ca = self.client_ca.as_deref().unwrap_or_default();
        for text in [&self.certificate, &self.key, client_ca] {
            digest.update((text.len() as u64).to_be_bytes());
            digest.update(text);
        }
        digest.finalize().into()
    }
}

/// What a look at the files has found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Found {
    /// They are as before.
    Unchanged,
    /// New connections get the new certificate.
    Replaced,
    /// They cannot be used; the previous certificate stays.
    Unusable,
}

/// The certificate of a listener as it is now.
pub(crate) struct Certificates {
    /// The table of the settings, `api.tls` or `admin.tls`, for the log.
    table: &'static str,
    files: Files,
    current: RwLock<Arc<ServerConfig>>,
    /// The digest of what was read last, also of what could not be used. `None`: a file could not be read.
    seen: Mutex<Option<[u8; 32]>>,
}

impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificates").field("files", &self.files).finish_non_exhaustive()
    }
}

impl Certificates {
    /// Reads the files that the settings in `table` name.
    ///
    /// # Errors
    /// [`SetupError`] with the file that cannot be used.
    pub(crate) fn read(table: &'static str, files: Files) -> Result<Self, SetupError> {
        let texts = files.texts()?;
        let config = files.config_of(&texts)?;
        let (current, seen) = (RwLock::new(Arc::new(config)), Mutex::new(Some(texts.digest())));
        Ok(Self { table, files, current, seen })
    }

    /// Returns the settings for a new connection.
    pub(crate) fn current(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.current.read())
    }

    /// Looks at the files and takes over what has changed. Blocks. What is not usable is logged once, and
    /// again if an operator has asked.
    pub(crate) fn look(&self, is_asked: bool) -> Found {
        let mut seen = self.seen.lock();
        let texts = self.files.texts();
        let digest = texts.as_ref().map(Texts::digest).ok();
        if *seen == digest && !is_asked {
            return Found::Unchanged;
        }
        *seen = digest;
        let table = self.table;
        match texts.and_then(|texts| self.files.config_of(&texts)) {
            Ok(config) => {
                *self.current.write() = Arc::new(config);
                tracing::info!("certificate of {table} read again, new connections get it");
                Found::Replaced
            }
            Err(error) => {
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                tracing::error!(
                    cause = cause.unwrap_or_default(),
                    "{error}; the previous certificate of {table} stays in use; write a certificate to \
                     {table}.cert_file and its key to {table}.key_file, then send SIGHUP"
                );
                Found::Unusable
            }
        }
    }

    /// Looks at the files every 10 s, and whenever `asked` changes. Never returns.
    pub(crate) async fn keep(self: Arc<Self>, mut asked: watch::Receiver<()>) {
        let mut may_be_asked = true;
        loop {
            let next = async {
                if may_be_asked { asked.changed().await } else { std::future::pending().await }
            };
            let is_asked = match timeout(LOOK_EVERY, next).await {
                Ok(Ok(())) => true,
                // Nobody can ask any more.
                Ok(Err(_)) => {
                    may_be_asked = false;
                    continue;
                }
                Err(_) => false,
            };
            let this = Arc::clone(&self);
            // A panic would be a bug of this module; the next look is as good.
            let _ = spawn_blocking(move || this.look(is_asked)).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::{
        super::testing::{Authority, write},
        *,
    };

    fn read(files: &Files) -> Certificates {
        Certificates::read("api.tls", files.clone()).unwrap()
    }

    #[test]
    fn a_swapped_symlink_is_a_change() {
        let (folder, authority) = (tempfile::tempdir().unwrap(), Authority::new());
        let [old, new] = ["old", "new"].map(|name| folder.path().join(name));
        for one in [&old, &new] {
            std::fs::create_dir(one).unwrap();
            authority.write_pair(one);
        }
        let link = folder.path().join("current");
        symlink(&old, &link).unwrap();
        let (certificate, key) = (link.join("cert.pem"), link.join("key.pem"));
        let certificates = read(&Files { certificate, key, client_ca: None });
        assert_eq!(certificates.look(false), Found::Unchanged);
        let before = certificates.current();
        let next = folder.path().join("next");
        symlink(&new, &next).unwrap();
        std::fs::rename(&next, &link).unwrap();
        assert_eq!(certificates.look(false), Found::Replaced);
        assert!(!Arc::ptr_eq(&before, &certificates.current()));
        assert_eq!(certificates.look(false), Found::Unchanged);
    }

    #[test]
    fn a_pair_that_does_not_fit_keeps_the_old_one() {
        let (folder, authority) = (tempfile::tempdir().unwrap(), Authority::new());
        let files = authority.write_pair(folder.path());
        let certificates = read(&files);
        let before = certificates.current();
        let (certificate, key) = authority.issue(&["localhost"]);
        write(folder.path(), "cert.pem", &certificate);
        assert_eq!(certificates.look(false), Found::Unusable);
        assert!(Arc::ptr_eq(&before, &certificates.current()));
        // It is logged once, until somebody asks.
        assert_eq!(certificates.look(false), Found::Unchanged);
        assert_eq!(certificates.look(true), Found::Unusable);
        std::fs::remove_file(&files.key).unwrap();
        assert_eq!(certificates.look(false), Found::Unusable);
        assert_eq!(certificates.look(false), Found::Unchanged);
        write(folder.path(), "key.pem", &key);
        assert_eq!(certificates.look(false), Found::Replaced);
        assert!(!Arc::ptr_eq(&before, &certificates.current()));
    }

    #[test]
    fn unusable_files_are_named() {
        let (folder, authority) = (tempfile::tempdir().unwrap(), Authority::new());
        let files = authority.write_pair(folder.path());
        let empty = write(folder.path(), "empty.pem", "");
        for (changed, named) in [
            (Files { certificate: empty.clone(), ..files.clone() }, "empty.pem"),
            (Files { key: empty.clone(), ..files.clone() }, "empty.pem"),
            (Files { client_ca: Some(empty), ..files.clone() }, "empty.pem"),
            (Files { key: folder.path().join("nothing"), ..files }, "nothing"),
        ] {
            let error = changed.config().unwrap_err().to_string();
            assert!(error.contains(named), "{error}");
        }
    }

    /// Waits until `certificates` are other ones, and returns how long that took.
    async fn replaced(certificates: &Certificates, before: &Arc<ServerConfig>) -> Duration {
        let start = tokio::time::Instant::now();
        while Arc::ptr_eq(before, &certificates.current()) {
            tokio::time::sleep(Duration::from_millis(100)).await;
            assert!(start.elapsed() < LOOK_EVERY * 10, "they are never read");
        }
        start.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_is_found_by_looking_and_by_asking() {
        let (folder, authority) = (tempfile::tempdir().unwrap(), Authority::new());
        let certificates = Arc::new(read(&authority.write_pair(folder.path())));
        let (ask, asked) = watch::channel(());
        let kept = tokio::spawn(Arc::clone(&certificates).keep(asked));
        let before = certificates.current();
        authority.write_pair(folder.path());
        assert!(replaced(&certificates, &before).await <= Duration::from_secs(30));
        let before = certificates.current();
        ask.send_replace(());
        assert!(replaced(&certificates, &before).await <= Duration::from_secs(3));
        drop(ask);
        let before = certificates.current();
        authority.write_pair(folder.path());
        assert!(replaced(&certificates, &before).await <= Duration::from_secs(30));
        kept.abort();
    }
}
