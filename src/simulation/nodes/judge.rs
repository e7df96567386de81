//! Judges a world that has healed and settled: the audit reads its log, its rows and what every
//! client was told.

use std::{io::Cursor, sync::Arc};

use serde_json::{Value, json};

use super::node::Engines;
use crate::{
    audit::{Audited, Meter, audit},
    clock::SystemClock,
    domain::{
        answer::{Answer, CouponFace},
        ids::Timestamp,
        record::Request,
    },
    log::memory::MemoryLog,
};

/// An answer that a client got.
#[derive(Debug, Clone)]
pub(super) struct Told {
    pub(super) at: Timestamp,
    pub(super) request: Request,
    pub(super) request_id: String,
    /// None: pending.
    pub(super) answer: Option<Answer>,
}

impl Told {
    /// Returns the answer as a line of the file that the audit reads.
    fn line(&self) -> Value {
        let coupon = |coupon: &CouponFace| {
            json!({
                "sequence": coupon.sequence,
                "code": coupon.code,
                "issued_at": rfc3339(coupon.issued_at),
            })
        };
        let (status, coupon, reason) = match &self.answer {
            None => ("pending", None, None),
            Some(Answer::Issued { coupon: face }) => ("issued", Some(coupon(face)), None),
            Some(Answer::AlreadyIssued { coupon: face }) => {
                ("already_issued", Some(coupon(face)), None)
            }
            Some(Answer::Rejected { reason }) => ("rejected", None, Some(reason.name())),
            Some(Answer::Accepted | Answer::Refused { .. }) => ("of a control record", None, None),
        };
        let mut body = json!({ "request_id": self.request_id, "status": status });
        body["coupon"] = coupon.unwrap_or_default();
        body["reason"] = reason.into();
        let Request { campaign, user, idempotency_key } = &self.request;
        json!({
            "time": rfc3339(self.at),
            "user": user.as_str(),
            "campaign": campaign.as_str(),
            "key": idempotency_key.as_ref().map(|key| key.as_str()),
            "status": 200,
            "body": body,
        })
    }
}

fn rfc3339(time: Timestamp) -> String {
    jiff::Timestamp::from_millisecond(time.0)
        .map_or_else(|_| String::new(), |at| format!("{at:.3}"))
}

/// Returns what is wrong, in one line each.
pub(super) fn findings(engines: &Engines, told: &[Told]) -> Vec<String> {
    let partitions = engines.brokers.lock().partitions.clone();
    let lines: Vec<String> = told.iter().map(|told| told.line().to_string()).collect();
    let answers = Box::new(Cursor::new(lines.join("\n").into_bytes()));
    let audited = Audited {
        log: Arc::new(MemoryLog::finished(partitions, Arc::new(SystemClock))),
        store: engines.rows.clone(),
        inspection: engines.rows.clone(),
        layout: engines.layout.clone(),
        keys: engines.keys.clone(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    let runtime = runtime.expect("a runtime without I/O starts");
    match runtime.block_on(audit(audited, Some(answers), Arc::new(Meter::default()))) {
        Ok(report) => {
            let mut findings: Vec<_> =
                report.findings.iter().map(|finding| format!("{finding:?}")).collect();
            findings.extend(report.unread);
            findings
        }
        Err(error) => vec![format!("the audit failed: {error:?}")],
    }
}
