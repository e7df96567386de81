//! The data folder: accessible to its owner only, locked against a second process, and home of the
//! secrets that the first start generates.

use std::{
    fs::{DirBuilder, File, OpenOptions, Permissions, TryLockError},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use tokio::sync::watch;

pub(super) const LOCK_FILE: &str = "lock";

/// Access for the owner only.
const FOLDER_MODE: u32 = 0o700;

/// Access for the owner only.
const SECRET_MODE: u32 = 0o600;

/// Access for group and others.
const OTHERS: u32 = 0o077;

/// Random bytes of a generated secret: 256 bits, as many as any key derived from it has.
const SECRET_RANDOM_BYTES: usize = 32;

/// Why the data folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// A file operation failed.
    #[error("{operation} {}", path.display())]
    Io {
        /// The operation, such as "opening".
        operation: &'static str,
        /// Its file or folder.
        path: PathBuf,
        /// Error of the operating system.
        #[source]
        source: io::Error,
    },
    /// Another process holds the lock.
    #[error("data folder {} is in use by another process", path.display())]
    InUse {
        /// The folder.
        path: PathBuf,
    },
    /// A secret file is not text, or too short.
    #[error("{} is {found}, must be text of at least {bytes_min} bytes", path.display())]
    Secret {
        /// The file.
        path: PathBuf,
        /// What the file holds.
        found: String,
        /// Least length of the secret.
        bytes_min: usize,
    },
}

/// Returns a conversion of an I/O error that adds operation and path.
fn on(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> FolderError {
    move |source| FolderError::Io { operation, path: path.to_owned(), source }
}

/// Creates the data folder, accessible to its owner only, unless it exists. Durable on return.
///
/// # Errors
/// [`FolderError::Io`].
pub fn data_folder(path: &Path) -> Result<(), FolderError> {
    if path.is_dir() {
        if let Some(exposure) = exposure(path) {
            tracing::warn!(dir = %path.display(), "{exposure}");
        }
        return Ok(());
    }
    let parent = parent_of(path);
    std::fs::create_dir_all(parent).map_err(on("creating folder", parent))?;
    match DirBuilder::new().mode(FOLDER_MODE).create(path) {
        Ok(()) => {}
        // Another process created it at the same time.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {}
        Err(error) => return Err(on("creating data folder", path)(error)),
    }
    sync_folder(parent)
}

/// Returns a warning with its remedy if others than its owner have access to a folder.
fn exposure(path: &Path) -> Option<String> {
    let mode = std::fs::metadata(path).ok()?.permissions().mode() & 0o7777;
    (mode & OTHERS != 0).then(|| {
        format!(
            "data folder of mode {mode:o}: others can reach user ids and secrets; run `chmod -R \
             go-rwx {}`",
            path.display()
        )
    })
}

/// Holds the lock of a data folder until it is dropped.
#[derive(Debug)]
pub(super) struct FolderLock {
    file: File,
    /// Closed when the lock is released.
    held: watch::Sender<()>,
}

impl FolderLock {
    /// Waits until the lock is released.
    pub(super) fn released(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut held = self.held.subscribe();
        async move { while held.changed().await.is_ok() {} }
    }
}

impl Drop for FolderLock {
    fn drop(&mut self) {
        // Closing the file is not enough. A child process between fork and exec has a copy of its
        // descriptor, and would keep the folder locked until the exec.
        if let Err(error) = self.file.unlock() {
            tracing::warn!(%error, "data folder not unlocked");
        }
    }
}

/// Locks the data folder for this process.
pub(super) fn locked(folder: &Path) -> Result<FolderLock, FolderError> {
    let path = folder.join(LOCK_FILE);
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(SECRET_MODE)
        .open(&path)
        .map_err(on("opening", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(FolderLock { file, held: watch::channel(()).0 }),
        Err(TryLockError::WouldBlock) => Err(FolderError::InUse { path: folder.to_owned() }),
        Err(TryLockError::Error(error)) => Err(on("locking", &path)(error)),
    }
}

/// Describes a secret that is kept as a file in the data folder.
#[derive(Debug, Clone, Copy)]
pub struct SecretFile {
    /// Name of the file.
    pub name: &'static str,
    /// Least length, for a secret that the operator put there.
    pub bytes_min: usize,
}

/// Returns the secret in the data folder. On first use generates one: 64 hexadecimal digits in a
/// file of mode 0600, durable on return. Two processes that generate it at once return the same.
///
/// # Errors
/// [`FolderError::Io`], or [`FolderError::Secret`] if the file exists but holds no usable secret.
pub fn kept_secret(folder: &Path, file: SecretFile) -> Result<String, FolderError> {
    data_folder(folder)?;
    if let Some(secret) = found_secret(folder, file)? {
        return Ok(secret);
    }
    let path = folder.join(file.name);
    let mut random = [0_u8; SECRET_RANDOM_BYTES];
    getrandom::fill(&mut random)
        .map_err(|error| on("generating random bytes for", &path)(io::Error::other(error)))?;
    let made = crate::domain::keys::hex(&random);
    let draft = folder.join(format!("{}.{}", file.name, &made[..16]));
    write_secret(&draft, &random)?;
    // Unlike a rename, a link fails if another process has just created the file. So neither
    // process can replace a secret that the other already uses.
    let linked = std::fs::hard_link(&draft, &path);
    std::fs::remove_file(&draft).map_err(on("removing", &draft))?;
    match linked {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(on("creating", &path)(error)),
    }
    sync_folder(folder)?;
    found_secret(folder, file)?.ok_or_else(|| on("reading", &path)(io::ErrorKind::NotFound.into()))
}

fn write_secret(path: &Path, random: &[u8]) -> Result<(), FolderError> {
    let mut file = OpenOptions::new()
        .create_new(true)
        .write(true)
        .mode(SECRET_MODE)
        .open(path)
        .map_err(on("creating", path))?;
    let text = format!("{}\n", crate::domain::keys::hex(random));
    file.write_all(text.as_bytes()).map_err(on("writing", path))?;
    file.sync_all().map_err(on("syncing", path))
}

/// Returns the secret in the data folder, or `None` if there is no such file. Makes a file that
/// others can read private.
///
/// # Errors
/// Like [`kept_secret`].
pub fn found_secret(folder: &Path, file: SecretFile) -> Result<Option<String>, FolderError> {
    let path = &folder.join(file.name);
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(on("reading", path)(error)),
    };
    let bytes_min = file.bytes_min;
    let unusable = |found| FolderError::Secret { path: path.clone(), found, bytes_min };
    let secret = std::str::from_utf8(&bytes).map_err(|_| unusable("not text".to_owned()))?.trim();
    if secret.len() < bytes_min {
        return Err(unusable(format!("{} bytes long", secret.len())));
    }
    let metadata = std::fs::metadata(path).map_err(on("reading the mode of", path))?;
    if metadata.permissions().mode() & OTHERS != 0 {
        tracing::warn!(path = %path.display(), "secret was readable by others, access removed");
        std::fs::set_permissions(path, Permissions::from_mode(SECRET_MODE))
            .map_err(on("protecting", path))?;
    }
    Ok(Some(secret.to_owned()))
}

fn parent_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

fn sync_folder(path: &Path) -> Result<(), FolderError> {
    File::open(path).and_then(|folder| folder.sync_all()).map_err(on("syncing", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: SecretFile = SecretFile { name: "secret.key", bytes_min: 32 };

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn the_folder_is_private_to_its_owner() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("a/b");
        data_folder(&folder).unwrap();
        data_folder(&folder).unwrap();
        assert_eq!(mode(&folder), FOLDER_MODE);
    }

    #[test]
    fn a_folder_that_others_can_reach_is_a_warning() {
        let folder = tempfile::tempdir().unwrap();
        let with_mode = |mode| {
            std::fs::set_permissions(folder.path(), Permissions::from_mode(mode)).unwrap();
            exposure(folder.path())
        };
        assert_eq!(with_mode(0o700), None);
        for mode in [0o701, 0o740, 0o755, 0o777] {
            let warning = with_mode(mode).unwrap();
            assert!(warning.contains(&format!("mode {mode:o}")), "{warning}");
            assert!(warning.contains("`chmod -R go-rwx /"), "{warning}");
        }
    }

    #[test]
    fn an_error_names_the_folder() {
        let parent = tempfile::tempdir().unwrap();
        let file = parent.path().join("file");
        std::fs::write(&file, "").unwrap();
        let error = data_folder(&file.join("data")).unwrap_err();
        assert!(error.to_string().contains("file"), "{error}");
    }

    #[test]
    fn one_process_at_a_time_locks_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        let lock = locked(folder.path()).unwrap();
        let error = locked(folder.path()).unwrap_err();
        assert!(error.to_string().ends_with("is in use by another process"), "{error}");
        drop(lock);
        locked(folder.path()).unwrap();
    }

    #[test]
    fn a_secret_is_generated_once() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("data");
        assert_eq!(found_secret(&folder, SECRET).unwrap(), None);
        let secret = kept_secret(&folder, SECRET).unwrap();
        assert_eq!(secret.len(), 2 * SECRET_RANDOM_BYTES);
        assert_eq!(kept_secret(&folder, SECRET).unwrap(), secret);
        let token = SecretFile { name: "admin.token", bytes_min: 1 };
        assert_ne!(kept_secret(&folder, token).unwrap(), secret);
        assert_eq!(mode(&folder.join("secret.key")), SECRET_MODE);
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 2, "no draft is left behind");
    }

    #[test]
    fn concurrent_generators_get_the_same_secret() {
        let folder = tempfile::tempdir().unwrap();
        let secrets: Vec<_> = std::thread::scope(|scope| {
            let makers: Vec<_> = (0..8)
                .map(|_| scope.spawn(|| kept_secret(folder.path(), SECRET).unwrap()))
                .collect();
            makers.into_iter().map(|maker| maker.join().unwrap()).collect()
        });
        assert!(secrets.iter().all(|secret| *secret == secrets[0]), "{secrets:?}");
    }

    #[test]
    fn a_short_secret_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret.key");
        std::fs::write(&path, "brought by the operator, long enough\n").unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        let secret = kept_secret(folder.path(), SECRET).unwrap();
        assert_eq!(secret, "brought by the operator, long enough");
        assert_eq!(mode(&path), SECRET_MODE);
        let short = format!(" {}\n", "s".repeat(31));
        for (content, found) in [
            (short.as_bytes(), "is 31 bytes long, must be"),
            (b" \n", "is 0 "),
            (b"\xFF", "not text"),
        ] {
            std::fs::write(&path, content).unwrap();
            let error = kept_secret(folder.path(), SECRET).unwrap_err().to_string();
            assert!(error.contains("secret.key ") && error.contains(found), "{error}");
        }
    }
}
