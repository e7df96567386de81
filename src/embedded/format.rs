//! The format file: the format of a data folder can be read without opening its database.
//!
//! Opening the database changes it, and the inspection before repairs the end of the journal. A
//! folder of another format must be refused before both. So the file is on disk before the database
//! is created. A database without the file has format 1, which had no format file.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use super::error::OpenError;
use crate::wire::format::{FORMAT, OtherFormat, check_number};

const FILE: &str = "format";
const DRAFT: &str = "format.draft";

/// Only the owner reads.
const MODE: u32 = 0o600;

/// Files and folders that only a used data folder of format 1 has.
const LEFT_BY_FORMAT_1: [&str; 2] = ["database", "witness"];

/// Refuses a data folder of another format. Changes nothing.
///
/// # Errors
/// [`OpenError::Format`], or [`OpenError::Damaged`] when the format file cannot be understood.
pub(super) fn check(folder: &Path) -> Result<(), OpenError> {
    // Before the file is read: a process that is starting right now writes the file first.
    let is_used = LEFT_BY_FORMAT_1.iter().any(|name| folder.join(name).exists());
    let refused = |other| OpenError::Format { path: folder.to_owned(), other };
    match read(folder)? {
        Some(text) => {
            let damaged = || OpenError::Damaged {
                path: folder.to_owned(),
                detail: format!("its file {FILE} reads {text:?}"),
                remedy: format!("restore it from a copy, or write {:?} into it", content()),
            };
            check_number(parse(&text).ok_or_else(damaged)?).map_err(refused)
        }
        None if is_used => Err(refused(OtherFormat::Number { found: 1 })),
        None => Ok(()),
    }
}

/// Checks the format of a data folder that this process has locked, and writes the format file
/// into a new one. The file is on disk when this returns.
///
/// # Errors
/// As [`check`], or [`OpenError::Inspect`].
pub(super) fn establish(folder: &Path) -> Result<(), OpenError> {
    check(folder)?;
    if read(folder)?.is_some() {
        return Ok(());
    }
    write(folder).map_err(|source| OpenError::Inspect { path: path(folder), source })
}

fn path(folder: &Path) -> PathBuf {
    folder.join(FILE)
}

fn content() -> String {
    format!("format = {FORMAT}\n")
}

/// Returns the number. What follows its line belongs to another format, in which it may mean anything.
fn parse(text: &str) -> Option<u32> {
    text.lines().next()?.strip_prefix("format = ")?.parse().ok()
}

fn read(folder: &Path) -> Result<Option<String>, OpenError> {
    let path = path(folder);
    match std::fs::read(&path) {
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(OpenError::Inspect { path, source }),
    }
}

/// Writes the file under another name, and renames it once it is on disk: a power cut leaves the
/// whole file or none.
fn write(folder: &Path) -> io::Result<()> {
    let draft = folder.join(DRAFT);
    let mut options = OpenOptions::new();
    let mut file = options.create(true).truncate(true).write(true).mode(MODE).open(&draft)?;
    file.write_all(content().as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&draft, path(folder))?;
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(folder: &Path) -> String {
        establish(folder).expect_err("it is refused").to_string()
    }

    #[test]
    fn a_new_folder_gets_the_format_of_this_version() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("secret.key"), "brought by the operator").unwrap();
        establish(folder.path()).unwrap();
        std::fs::create_dir(folder.path().join("database")).unwrap();
        establish(folder.path()).unwrap();
        let written = std::fs::read_to_string(path(folder.path())).unwrap();
        assert_eq!(written, format!("format = {FORMAT}\n"));
    }

    #[test]
    fn a_database_without_the_file_has_format_1() {
        for left in LEFT_BY_FORMAT_1 {
            let folder = tempfile::tempdir().unwrap();
            std::fs::create_dir(folder.path().join(left)).unwrap();
            let said = refused(folder.path());
            assert!(said.contains("has format 1"), "{said}");
            assert!(!path(folder.path()).exists());
        }
    }

    #[test]
    fn another_number_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        for (text, found) in [
            ("format = 99\nidentity_fold = none\n", "has format 99, "),
            ("format = 4\n", "has format 4, "),
            ("format = four\n", "its file format reads \"format = four\\n\""),
            ("", "its file format reads \"\""),
        ] {
            std::fs::write(path(folder.path()), text).unwrap();
            let said = refused(folder.path());
            assert!(said.contains(found), "{said}");
            assert_eq!(std::fs::read_to_string(path(folder.path())).unwrap(), text);
        }
    }
}
