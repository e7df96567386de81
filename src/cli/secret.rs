//! Moves the secret of an instance into a file.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use clap::{Args, Subcommand};
use reqwest::Method;

use super::{
    Done,
    arguments::AdminListener,
    campaign::called,
    client::{Call, ClientError},
};
use crate::config::Config;

/// Mode of the file: nobody but its owner may use it.
const MODE: u32 = 0o600;

#[derive(Debug, Args)]
pub(super) struct SecretArguments {
    #[command(subcommand)]
    pub(super) action: SecretAction,
}

impl SecretArguments {
    pub(super) fn listener(&self) -> &AdminListener {
        let SecretAction::Export(export) = &self.action;
        &export.listener
    }
}

#[derive(Debug, Subcommand)]
pub(super) enum SecretAction {
    /// Write the secret that coupond made at the first start into a new file of mode 0600
    Export(ExportSecret),
}

#[derive(Debug, Args)]
pub(super) struct ExportSecret {
    /// The file; one that exists is left as it is
    file: PathBuf,
    #[command(flatten)]
    listener: AdminListener,
}

/// Asks a node for the secret, and writes it into a new file.
pub(super) async fn export(config: &Config, arguments: ExportSecret) -> Result<Done, ClientError> {
    let ExportSecret { file, listener } = arguments;
    let (client, _) = called(config, listener)?;
    // Before the call, so that the secret is not asked for in vain.
    let mut made = New::create(&file)?;
    let (_, body) = client.call(Call::new(Method::POST, &["admin", "secret", "export"])).await?;
    let Some(secret) = body.get("secret").and_then(|secret| secret.as_str()) else {
        let found = "the answer has no secret".to_owned();
        return Err(ClientError::Foreign { url: client.base(), found });
    };
    made.keep(secret)?;
    Ok(Done::with(""))
}

/// A new file, which is removed again unless it is kept.
struct New<'a> {
    path: &'a Path,
    file: File,
    is_kept: bool,
}

impl<'a> New<'a> {
    fn create(path: &'a Path) -> Result<Self, ClientError> {
        let file = OpenOptions::new().write(true).create_new(true).mode(MODE).open(path);
        let file = file.map_err(|source| not_written(path, source))?;
        Ok(Self { path, file, is_kept: false })
    }

    /// Writes the file and waits until it is on disk.
    fn keep(&mut self, secret: &str) -> Result<(), ClientError> {
        let written = writeln!(self.file, "{secret}").and_then(|()| self.file.sync_all());
        written.map_err(|source| not_written(self.path, source))?;
        // The name must be there after a power cut too: the other copy may be removed next.
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let synced = File::open(folder.unwrap_or(Path::new("."))).and_then(|it| it.sync_all());
        synced.map_err(|source| not_written(self.path, source))?;
        self.is_kept = true;
        Ok(())
    }
}

impl Drop for New<'_> {
    fn drop(&mut self) {
        if !self.is_kept {
            // It is empty or half written, and was made by this command.
            let _ = std::fs::remove_file(self.path);
        }
    }
}

fn not_written(path: &Path, source: io::Error) -> ClientError {
    ClientError::Secret { path: PathBuf::from(path), source }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_secret_is_kept_for_its_owner_and_overwrites_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        drop(New::create(&path).unwrap());
        assert!(!path.exists(), "a file without a secret is removed");
        New::create(&path).unwrap().keep("a secret").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "a secret\n");
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, MODE);
        assert!(New::create(&path).is_err());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "a secret\n");
    }
}
