//! Reads the answers that clients received from a file, and checks them against log and rows.
//!
//! The file has one JSON object per line, in any order, for each call of `POST /coupon/issue` and
//! of `GET /coupon/requests/{request_id}`:
//!
//! ```json
//! {"time":"2026-11-26T12:00:00.123Z","user":"ada","campaign":"spring","key":"k-1","status":200,
//!  "body":{"request_id":"AQ…","status":"issued","coupon":{"sequence":17,"code":"4Z04…",
//!  "issued_at":"2026-11-26T12:00:00.120Z"}}}
//! ```
//!
//! `time` (RFC 3339) is when the client received the answer, `key` the idempotency key if one was
//! sent, `status` the HTTP status (0: no answer), `body` the unchanged body of the answer, or null.

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash, Hasher},
    io::BufRead,
    sync::Arc,
};

use serde::Deserialize;

use super::{
    finding::{FindingKind, Findings, Location},
    model::{Model, RecordOutcome, fingerprint},
    refusals::Refusals,
};
use crate::{
    answer::request_id::{RequestContent, RequestIds},
    domain::{
        ids::{CampaignId, IdempotencyKey, Offset, Partition, Sequence, Timestamp, UserId},
        keys::Keys,
        reason::Reason,
        record::Request,
    },
};

/// Most 2xx answers in one file, and most requests with a key. Each takes 64 bytes of memory, so all take
/// 256 MB, and as much again with keys.
pub(super) const ANSWERS_MAX: usize = 4_000_000;

/// Why a file of answers was refused.
#[derive(Debug, thiserror::Error)]
pub enum AnswersError {
    /// Reading failed.
    #[error("can't read line {line} of the answers")]
    Read {
        /// Number of the line, from 1.
        line: u32,
        /// Why it can't be read.
        #[source]
        source: std::io::Error,
    },
    /// A line does not have the documented format.
    #[error(
        "line {line} of the answers is invalid: {detail}; `coupond audit --help` has the format"
    )]
    Line {
        /// Number of the line, from 1.
        line: u32,
        /// What is wrong with it.
        detail: String,
    },
    /// The file has more than 4,000,000 answers 2xx.
    #[error("more than {ANSWERS_MAX} answers; split the file by campaign")]
    TooMany,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    time: String,
    user: UserId,
    campaign: CampaignId,
    #[serde(default)]
    key: Option<IdempotencyKey>,
    status: u16,
    #[serde(default)]
    body: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct Body {
    request_id: String,
    status: String,
    #[serde(default)]
    reason: Option<Reason>,
    #[serde(default)]
    coupon: Option<Face>,
}

#[derive(Deserialize)]
struct Face {
    sequence: Sequence,
    code: String,
    issued_at: String,
}

/// The content of an answer: pending, or a decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AnswerContent {
    Pending,
    Issued { sequence: Sequence, face: u64 },
    AlreadyIssued { sequence: Sequence, face: u64 },
    Rejected(Reason),
}

/// One 2xx answer.
#[derive(Debug, Clone, Copy)]
pub(super) struct ClientAnswer {
    partition: Partition,
    pub(super) offset: Offset,
    line: u32,
    campaign: u32,
    /// Hash of campaign, user, record time and key, which the request id contains.
    content: u64,
    pub(super) user: u64,
    pub(super) received: AnswerContent,
}

/// A coupon that an answer showed to a client.
#[derive(Debug, Clone, Copy)]
pub(super) struct Claim {
    pub(super) sequence: Sequence,
    pub(super) user: u64,
    pub(super) face: u64,
    pub(super) line: u32,
    pub(super) offset: Offset,
}

/// Counts the answers of a file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct AnswerCounts {
    /// Lines of the file.
    pub lines: u64,
    /// Answers with a final decision.
    pub decided: u64,
    /// Answers "pending".
    pub pending: u64,
    /// Answers other than 2xx, and calls without an answer.
    pub others: u64,
    /// Final answers whose record the log no longer has. They are checked against rows only.
    pub before_the_log: u64,
}

/// All 2xx answers of a file, by position.
#[derive(Debug, Default)]
pub(super) struct ClientAnswers {
    answers: Vec<ClientAnswer>,
    campaigns: Vec<CampaignId>,
    pub(super) counts: AnswerCounts,
    pub(super) findings: Findings,
    pub(super) refusals: Refusals,
}

/// Reads files of answers.
pub(super) struct AnswerReader {
    pub(super) ids: RequestIds,
    pub(super) keys: Arc<Keys>,
    pub(super) partitions: u32,
}

impl AnswerReader {
    /// Reads a file of answers, and reports answers that contradict each other.
    pub(super) fn read(&self, file: impl BufRead) -> Result<ClientAnswers, AnswersError> {
        let mut answers = ClientAnswers::default();
        let mut interned = HashMap::new();
        let mut of_keys = HashMap::new();
        for (index, text) in file.lines().enumerate() {
            let line = u32::try_from(index + 1).unwrap_or(u32::MAX);
            let text = text.map_err(|source| AnswersError::Read { line, source })?;
            if text.trim().is_empty() {
                continue;
            }
            answers.counts.lines += 1;
            let bad = |detail: String| AnswersError::Line { line, detail };
            let parsed: Line =
                serde_json::from_str(&text).map_err(|error| bad(error.to_string()))?;
            parse_time(&parsed.time).ok_or_else(|| bad("time is not in RFC 3339 format".into()))?;
            if let Some(key) = &parsed.key {
                let of_key = (&parsed.campaign, &parsed.user, key);
                answers.refusals.note(of_key, (parsed.status, parsed.body.as_ref()), line)?;
            }
            if !(200..300).contains(&parsed.status) {
                answers.counts.others += 1;
                continue;
            }
            let body = parsed.body.clone().unwrap_or_default();
            let body: Body =
                serde_json::from_value(body).map_err(|error| bad(error.to_string()))?;
            let received =
                answer_content(&body).ok_or_else(|| bad("body has no valid status".into()))?;
            match received {
                AnswerContent::Pending => answers.counts.pending += 1,
                _ => answers.counts.decided += 1,
            }
            let Some(content) = self.opened(&body.request_id, &parsed, line, &mut answers) else {
                continue;
            };
            if let (AnswerContent::Issued { sequence, .. }, Some(key)) = (received, &parsed.key) {
                let of_key = of_keys.entry(hashed((&parsed.campaign, &parsed.user, key)));
                let (first, first_line) = *of_key.or_insert((sequence, line));
                if first != sequence {
                    let detail = format!(
                        "lines {first_line} and {line}: coupons {first} and {sequence} for one \
                         idempotency key of user {}",
                        parsed.user
                    );
                    let place = place(&content, Some(sequence));
                    answers.findings.add(FindingKind::AnswerTwoForKey, place, detail);
                }
            }
            let next = u32::try_from(interned.len()).unwrap_or(u32::MAX);
            let campaign = *interned.entry(content.campaign.clone()).or_insert_with(|| {
                answers.campaigns.push(content.campaign.clone());
                next
            });
            if answers.answers.len() == ANSWERS_MAX {
                return Err(AnswersError::TooMany);
            }
            answers.answers.push(ClientAnswer {
                partition: content.position.partition,
                offset: content.position.offset,
                line,
                campaign,
                content: content_hash(&content),
                user: fingerprint(self.keys.user_digest(&content.user)),
                received,
            });
        }
        answers.answers.sort_unstable_by_key(|it| (it.partition, it.offset, it.line));
        answers.find_changed();
        Ok(answers)
    }

    /// Returns the content of the request id, if this instance made it for this request.
    fn opened(
        &self,
        request_id: &str,
        line: &Line,
        number: u32,
        answers: &mut ClientAnswers,
    ) -> Option<RequestContent> {
        let campaign = Location { campaign: Some(line.campaign.clone()), ..Location::default() };
        let content = self
            .ids
            .open(request_id)
            .filter(|content| content.position.partition < self.partitions);
        let Some(content) = content else {
            let detail = format!("line {number}: this instance did not make this request id");
            answers.findings.add(FindingKind::AnswerUnknownId, campaign, detail);
            return None;
        };
        let key = line.key.as_ref().map(|key| self.keys.key_digest(&line.user, key).to_le_bytes());
        let same = content.campaign == line.campaign && content.user == line.user;
        // A `GET` carries no idempotency key, so its line may lack the key of the request.
        if !same || (key.is_some() && key != content.key_digest) {
            let detail = format!(
                "line {number}: user {} of campaign {} was given the id of another request",
                line.user, line.campaign
            );
            answers.findings.add(FindingKind::AnswerForeignId, campaign, detail);
            return None;
        }
        Some(content)
    }
}

impl ClientAnswers {
    /// Returns the answers of one partition in the order of offsets.
    pub(super) fn of_partition(&self, partition: Partition) -> &[ClientAnswer] {
        let from = self.answers.partition_point(|answer| answer.partition < partition);
        let to = self.answers.partition_point(|answer| answer.partition <= partition);
        &self.answers[from..to]
    }

    pub(super) fn campaign(&self, answer: &ClientAnswer) -> Option<&CampaignId> {
        self.campaigns.get(answer.campaign as usize)
    }

    /// Returns the coupons that answers of a partition showed, by campaign, ordered by sequence.
    pub(super) fn claims(&self, partition: Partition) -> HashMap<CampaignId, Vec<Claim>> {
        let mut claims: HashMap<CampaignId, Vec<Claim>> = HashMap::new();
        for answer in self.of_partition(partition) {
            let (AnswerContent::Issued { sequence, face }
            | AnswerContent::AlreadyIssued { sequence, face }) = answer.received
            else {
                continue;
            };
            let Some(campaign) = self.campaign(answer) else { continue };
            let ClientAnswer { user, line, offset, .. } = *answer;
            let claim = Claim { sequence, user, face, line, offset };
            claims.entry(campaign.clone()).or_default().push(claim);
        }
        for claims in claims.values_mut() {
            claims.sort_unstable_by_key(|claim| (claim.sequence, claim.line));
        }
        claims
    }

    fn find_changed(&mut self) {
        let mut first: Option<ClientAnswer> = None;
        for answer in &self.answers {
            let same = |first: &ClientAnswer| {
                (first.partition, first.offset) == (answer.partition, answer.offset)
            };
            if answer.received == AnswerContent::Pending {
                continue;
            }
            match first.filter(same) {
                Some(first) if first.received != answer.received => {
                    let detail = format!(
                        "lines {} and {} give the same request different answers: {}; {}",
                        first.line,
                        answer.line,
                        first.received.describe(),
                        answer.received.describe()
                    );
                    let place = Location {
                        partition: Some(answer.partition),
                        campaign: self.campaigns.get(answer.campaign as usize).cloned(),
                        offset: Some(answer.offset),
                        sequence: None,
                    };
                    self.findings.add(FindingKind::AnswerChanged, place, detail);
                }
                Some(_) => {}
                None => first = Some(*answer),
            }
        }
    }
}

impl AnswerContent {
    fn describe(self) -> String {
        match self {
            Self::Pending => "pending".to_owned(),
            Self::Issued { sequence, .. } => format!("issued, coupon {sequence}"),
            Self::AlreadyIssued { sequence, .. } => format!("already issued, coupon {sequence}"),
            Self::Rejected(reason) => format!("rejected, {}", reason.name()),
        }
    }
}

impl ClientAnswer {
    fn place(&self, campaign: Option<&CampaignId>) -> Location {
        Location {
            partition: Some(self.partition),
            campaign: campaign.cloned(),
            offset: Some(self.offset),
            sequence: None,
        }
    }

    /// Checks the answer against the record at its position. `decided` is the request there with
    /// its outcome, or `None` for a dead letter or a control record.
    pub(super) fn check(
        &self,
        decided: Option<(&Request, Timestamp, RecordOutcome, &Model)>,
        campaign: Option<&CampaignId>,
        findings: &mut Findings,
    ) {
        let place = self.place(campaign);
        let line = self.line;
        let Some((request, time, verdict, model)) = decided else {
            let detail = format!("line {line}: its record is a dead letter and has no decision");
            return findings.add(FindingKind::AnswerUndecided, place, detail);
        };
        let keys = &model.place.keys;
        let key_digest = request
            .idempotency_key
            .as_ref()
            .map(|key| keys.key_digest(&request.user, key).to_le_bytes());
        let found = hashed((&request.campaign, &request.user, time, key_digest));
        if found != self.content {
            let detail = format!("line {line}: another record is at the request's position");
            return findings.add(FindingKind::AnswerLost, place, detail);
        }
        let face = |sequence: Sequence| {
            let coupon = model.coupon(sequence)?;
            Some(face_hash(&model.code(sequence, &request.user), coupon.time))
        };
        let derived = match verdict {
            RecordOutcome::Issued(sequence) => {
                AnswerContent::Issued { sequence, face: face(sequence).unwrap_or_default() }
            }
            RecordOutcome::AlreadyIssued(sequence) => {
                AnswerContent::AlreadyIssued { sequence, face: face(sequence).unwrap_or_default() }
            }
            RecordOutcome::Rejected(reason) => AnswerContent::Rejected(reason),
            RecordOutcome::Control | RecordOutcome::Undefined => {
                let detail = format!("line {line}: its record has no decision");
                return findings.add(FindingKind::AnswerUndecided, place, detail);
            }
        };
        if self.received == AnswerContent::Pending || self.received == derived {
            return;
        }
        let (received, right) = (self.received.describe(), derived.describe());
        let alike = std::mem::discriminant(&self.received) == std::mem::discriminant(&derived);
        if alike && !matches!(derived, AnswerContent::Rejected(_)) {
            let detail = format!(
                "line {line}: the client got {received}, the log derives {right}; sequence, code or \
                 time differ"
            );
            findings.add(FindingKind::AnswerCoupon, place, detail);
        } else {
            let detail = format!("line {line}: the client got {received}, the log derives {right}");
            findings.add(FindingKind::AnswerWrong, place, detail);
        }
    }

    /// Reports a final answer at a position that is skipped. A request that is pending there is an
    /// acknowledged loss.
    pub(super) fn skipped(&self, campaign: Option<&CampaignId>, findings: &mut Findings) {
        if self.received != AnswerContent::Pending {
            let (line, received) = (self.line, self.received.describe());
            let detail =
                format!("line {line}: its position is skipped, but the client got {received}");
            findings.add(FindingKind::AnswerUndecided, self.place(campaign), detail);
        }
    }

    /// Reports that the log has no record at the answer's position.
    pub(super) fn lost(&self, campaign: Option<&CampaignId>, findings: &mut Findings) {
        let place = self.place(campaign);
        let line = self.line;
        let detail = format!("line {line}: the log has no record at the request's position");
        findings.add(FindingKind::AnswerLost, place, detail);
    }
}

fn place(content: &RequestContent, sequence: Option<Sequence>) -> Location {
    Location {
        partition: Some(content.position.partition),
        campaign: Some(content.campaign.clone()),
        offset: Some(content.position.offset),
        sequence,
    }
}

fn answer_content(body: &Body) -> Option<AnswerContent> {
    let face = || {
        let coupon = body.coupon.as_ref()?;
        let time = parse_time(&coupon.issued_at)?;
        Some((coupon.sequence, face_hash(&coupon.code, time)))
    };
    match body.status.as_str() {
        "pending" => Some(AnswerContent::Pending),
        "issued" => face().map(|(sequence, face)| AnswerContent::Issued { sequence, face }),
        "already_issued" => {
            face().map(|(sequence, face)| AnswerContent::AlreadyIssued { sequence, face })
        }
        "rejected" => body.reason.map(AnswerContent::Rejected),
        _ => None,
    }
}

fn parse_time(text: &str) -> Option<Timestamp> {
    let time: jiff::Timestamp = text.parse().ok()?;
    Some(Timestamp(time.as_millisecond()))
}

/// Hashes the members of a coupon that clients see.
pub(super) fn face_hash(code: &str, issued_at: Timestamp) -> u64 {
    hashed((code, issued_at))
}

fn content_hash(content: &RequestContent) -> u64 {
    hashed((&content.campaign, &content.user, content.time, content.key_digest))
}

pub(super) fn hashed(value: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}
