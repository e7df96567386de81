//! The data folder: made for its owner alone, locked against a second process, and keeping the
//! secrets that were made on the first start.

use std::{
    fs::{DirBuilder, File, OpenOptions, Permissions, TryLockError},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use tokio::sync::watch;
use tracing::warn;

const LOCK_FILE: &str = "lock";

/// Only the owner reads and enters.
const FOLDER_MODE: u32 = 0o700;

/// Only the owner reads.
const SECRET_MODE: u32 = 0o600;

/// Bytes of randomness in a secret made here: 256 bits, as much as any key derived from it.
const SECRET_RANDOM_BYTES: usize = 32;

/// Why the data folder can't be used.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// An operation on it failed.
    #[error("{operation} {}", path.display())]
    Io {
        /// What was attempted.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        source: io::Error,
    },
    /// Another process has it.
    #[error("data folder {} is in use by another process", path.display())]
    InUse {
        /// The folder.
        path: PathBuf,
    },
    /// A kept secret is not text, or too short.
    #[error("{} is {found}, must be text of at least {bytes_min} bytes", path.display())]
    Secret {
        /// The file.
        path: PathBuf,
        /// What is in it.
        found: String,
        /// Length that it must have at least.
        bytes_min: usize,
    },
}

/// Says which operation on which path failed.
fn on(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> FolderError {
    move |source| FolderError::Io { operation, path: path.to_owned(), source }
}

/// Makes the data folder, for its owner alone, if it is not there; durable when it returns.
///
/// # Errors
/// [`FolderError::Io`].
pub fn data_folder(path: &Path) -> Result<(), FolderError> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = parent_of(path);
    std::fs::create_dir_all(parent).map_err(on("making folder", parent))?;
    match DirBuilder::new().mode(FOLDER_MODE).create(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {}
        Err(error) => return Err(on("making data folder", path)(error)),
    }
    sync_folder(parent)
}

/// A data folder that was taken for this process.
#[derive(Debug)]
pub(super) struct FolderLock {
    file: File,
    /// Dropped after the lock is released.
    held: watch::Sender<()>,
}

impl FolderLock {
    /// Waits until somebody else may take the folder.
    pub(super) fn released(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut held = self.held.subscribe();
        async move { while held.changed().await.is_ok() {} }
    }
}

impl Drop for FolderLock {
    fn drop(&mut self) {
        // Closing the file is not enough: a process that is just being started holds a copy of it
        // until its program is loaded, and would keep the folder locked for that long.
        if let Err(error) = self.file.unlock() {
            warn!(%error, "unlocking the data folder failed");
        }
    }
}

/// Takes the data folder for this process, until what is given is dropped.
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

/// A secret that is kept in the data folder.
#[derive(Debug, Clone, Copy)]
pub struct SecretFile {
    /// Name of the file.
    pub name: &'static str,
    /// Shortest that is taken: whoever operates the node may have brought it.
    pub bytes_min: usize,
}

/// The secret kept in the data folder, made on first use: 64 hexadecimal digits, mode 0600, on
/// disk before it is given to anybody. Two processes that make it at once agree on one.
///
/// # Errors
/// [`FolderError::Io`], or [`FolderError::Secret`] when the file is there but can't be one.
pub fn kept_secret(folder: &Path, file: SecretFile) -> Result<String, FolderError> {
    data_folder(folder)?;
    if let Some(secret) = found_secret(folder, file)? {
        return Ok(secret);
    }
    let path = folder.join(file.name);
    let mut random = [0_u8; SECRET_RANDOM_BYTES];
    getrandom::fill(&mut random)
        .map_err(|error| on("asking for randomness for", &path)(io::Error::other(error)))?;
    let made = crate::domain::keys::hex(&random);
    let draft = folder.join(format!("{}.{}", file.name, &made[..16]));
    write_secret(&draft, &random)?;
    // A link fails where a rename would replace what another process has just made.
    let linked = std::fs::hard_link(&draft, &path);
    std::fs::remove_file(&draft).map_err(on("removing", &draft))?;
    match linked {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(on("making", &path)(error)),
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
        .map_err(on("making", path))?;
    let text = format!("{}\n", crate::domain::keys::hex(random));
    file.write_all(text.as_bytes()).map_err(on("writing", path))?;
    file.sync_all().map_err(on("making durable", path))
}

/// The secret kept in the data folder; none if there is no such file.
///
/// # Errors
/// As [`kept_secret`].
pub fn found_secret(folder: &Path, file: SecretFile) -> Result<Option<String>, FolderError> {
    let path = &folder.join(file.name);
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(on("reading", path)(error)),
    };
    let bytes_min = file.bytes_min;
    let unusable = |found| FolderError::Secret { path: path.clone(), found, bytes_min };
    let secret = std::str::from_utf8(&bytes).map_err(|_| unusable("no text".to_owned()))?.trim();
    if secret.len() < bytes_min {
        return Err(unusable(format!("{} bytes long", secret.len())));
    }
    let metadata = std::fs::metadata(path).map_err(on("looking at", path))?;
    if metadata.permissions().mode() & 0o077 != 0 {
        warn!(path = %path.display(), "others could read this secret, now only its owner can");
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
    File::open(path).and_then(|folder| folder.sync_all()).map_err(on("making durable", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: SecretFile = SecretFile { name: "secret.key", bytes_min: 32 };

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn the_folder_is_made_for_its_owner_alone() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("a/b");
        data_folder(&folder).unwrap();
        data_folder(&folder).unwrap();
        assert_eq!(mode(&folder), FOLDER_MODE);
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_named() {
        let parent = tempfile::tempdir().unwrap();
        let file = parent.path().join("file");
        std::fs::write(&file, "").unwrap();
        let error = data_folder(&file.join("data")).unwrap_err();
        assert!(error.to_string().contains("file"), "{error}");
    }

    #[test]
    fn the_folder_is_taken_by_one_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let lock = locked(folder.path()).unwrap();
        let error = locked(folder.path()).unwrap_err();
        assert!(error.to_string().ends_with("is in use by another process"), "{error}");
        drop(lock);
        locked(folder.path()).unwrap();
    }

    #[test]
    fn a_secret_is_made_once_and_kept() {
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
    fn all_who_make_a_secret_at_once_are_given_the_same() {
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
            (b"\xFF", "no text"),
        ] {
            std::fs::write(&path, content).unwrap();
            let error = kept_secret(folder.path(), SECRET).unwrap_err().to_string();
            assert!(error.contains("secret.key ") && error.contains(found), "{error}");
        }
    }
}
