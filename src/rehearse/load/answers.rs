//! Writes down every answer, as `coupond audit --answers` reads it.

use std::{
    cell::RefCell,
    fs::File,
    io::{self, BufWriter, Write},
    path::Path,
};

use super::{draw::Asked, pool::Answer};
use crate::clock::{Clock, SystemClock};

/// A file of answers.
#[derive(Debug)]
pub(super) struct AnswersFile {
    file: RefCell<BufWriter<File>>,
    /// The first error; what follows it is not written.
    failed: RefCell<Option<io::Error>>,
}

impl AnswersFile {
    pub(super) fn create(path: &Path) -> io::Result<Self> {
        let file = RefCell::new(BufWriter::new(File::create(path)?));
        Ok(Self { file, failed: RefCell::default() })
    }

    /// Adds what a client was told; None: there was no answer.
    pub(super) fn add(&self, campaign: &str, asked: &Asked, answer: Option<&Answer>) {
        if self.failed.borrow().is_some() {
            return;
        }
        if let Err(error) = self.write(campaign, asked, answer) {
            *self.failed.borrow_mut() = Some(error);
        }
    }

    fn write(&self, campaign: &str, asked: &Asked, answer: Option<&Answer>) -> io::Result<()> {
        let time =
            jiff::Timestamp::from_millisecond(SystemClock.now().0).map_err(io::Error::other)?;
        let mut file = self.file.borrow_mut();
        write!(file, r#"{{"time":"{time:.3}","user":"{}","campaign":"{campaign}""#, asked.user)?;
        if let Some(key) = &asked.key {
            write!(file, r#","key":"{key}""#)?;
        }
        let status = answer.map_or(0, |answer| answer.status.as_u16());
        write!(file, r#","status":{status}"#)?;
        // The body is written as it came. One that is no JSON, from something in between, is left out.
        if let Some(answer) = answer
            && serde_json::from_slice::<serde::de::IgnoredAny>(&answer.body).is_ok()
            && !answer.body.contains(&b'\n')
        {
            write!(file, r#","body":"#)?;
            file.write_all(&answer.body)?;
        }
        file.write_all(b"}\n")
    }

    /// Writes what is still in memory.
    pub(super) fn finish(&self) -> io::Result<()> {
        match self.failed.borrow_mut().take() {
            Some(error) => Err(error),
            None => self.file.borrow_mut().flush(),
        }
    }
}
