//! Requests that were refused for certain, each time that they were sent: none of them may be in the log.
//!
//! A request is known by campaign, user and idempotency key. Without a key, another request of the same
//! user could not be told from it.

use std::collections::HashMap;

use super::{
    answers::{ANSWERS_MAX, AnswersError, hashed},
    finding::{FindingKind, Findings, Location},
};
use crate::domain::{
    ids::{CampaignId, IdempotencyKey, UserId},
    record::Request,
};

/// Ends of the type of answers after which the request may be in the log all the same.
const UNCERTAIN: [&str; 1] = ["/outcome-unknown"];

/// What became of a request, in all answers of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    /// It was refused, each time; with the first line that says so.
    Refused(u32),
    /// At least one answer says that it was taken, or leaves it open.
    Taken,
}

/// The requests of a file that were always refused.
#[derive(Debug, Default)]
pub(super) struct Refusals(HashMap<u64, Told>);

fn identity(campaign: &CampaignId, user: &UserId, key: &IdempotencyKey) -> u64 {
    hashed((campaign, user, key))
}

/// Returns whether an answer says that the request is not in the log and never will be.
fn is_certain(status: u16, body: Option<&serde_json::Value>) -> bool {
    let kind = body.and_then(|body| body["type"].as_str());
    // Without one, it may be the answer of a proxy that gave up waiting.
    let Some(kind) = kind else { return false };
    match status {
        // Taken once, and lost with what an operator skipped or restored.
        410 => false,
        400..=499 => true,
        503 => !UNCERTAIN.iter().any(|end| kind.ends_with(end)),
        _ => false,
    }
}

impl Refusals {
    /// Notes an answer to a request with a key.
    ///
    /// # Errors
    /// [`AnswersError::TooMany`] requests.
    pub(super) fn note(
        &mut self,
        (campaign, user, key): (&CampaignId, &UserId, &IdempotencyKey),
        (status, body): (u16, Option<&serde_json::Value>),
        line: u32,
    ) -> Result<(), AnswersError> {
        let told = if is_certain(status, body) { Told::Refused(line) } else { Told::Taken };
        let entry = self.0.entry(identity(campaign, user, key)).or_insert(told);
        if told == Told::Taken {
            *entry = Told::Taken;
        }
        if self.0.len() > ANSWERS_MAX {
            return Err(AnswersError::TooMany);
        }
        Ok(())
    }

    /// Reports a request of the log that its client was told is not there.
    pub(super) fn check(&self, request: &Request, place: Location, findings: &mut Findings) {
        // Most audits have no answers: nothing is hashed for them.
        let Some(key) = request.idempotency_key.as_ref().filter(|_| !self.0.is_empty()) else {
            return;
        };
        let told = self.0.get(&identity(&request.campaign, &request.user, key));
        if let Some(Told::Refused(line)) = told {
            let detail = format!(
                "line {line}: user {} was told that the request is not in the log, and nothing else \
                 in any line",
                request.user
            );
            findings.add(FindingKind::AnswerDenied, place, detail);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_what_the_api_promises_is_certain() {
        let problem = |slug: &str| json!({ "type": format!("/problems/{slug}") });
        for (status, slug, certain) in [
            (409, "sold-out", true),
            (429, "too-many-requests", true),
            (503, "unavailable", true),
            (503, "halted", true),
            (503, "outcome-unknown", false),
            (410, "not-decided", false),
            (500, "unheard-of", false),
            (202, "pending", false),
        ] {
            assert_eq!(is_certain(status, Some(&problem(slug))), certain, "{status} {slug}");
        }
        for status in [0, 408, 429, 503] {
            assert!(!is_certain(status, None), "{status}: somebody between may have said it");
        }
    }
}
