//! The lines of a file of answers, as a client of good data writes them.

use serde_json::{Value, json};

use crate::domain::{
    answer::{Answer, CouponFace},
    ids::Timestamp,
    record::Request,
};

/// Returns the body of a decision; none of a control record.
pub(super) fn decision(request_id: &str, answer: &Answer) -> Option<Value> {
    let coupon = |face: &CouponFace| {
        let issued_at = time(face.issued_at);
        json!({ "sequence": face.sequence, "code": face.code, "issued_at": issued_at })
    };
    Some(match answer {
        Answer::Issued { coupon: face } => {
            json!({ "request_id": request_id, "status": "issued", "coupon": coupon(face) })
        }
        Answer::AlreadyIssued { coupon: face } => {
            json!({ "request_id": request_id, "status": "already_issued", "coupon": coupon(face) })
        }
        Answer::Rejected { reason } => {
            json!({ "request_id": request_id, "status": "rejected", "reason": reason.name() })
        }
        Answer::Accepted | Answer::Refused { .. } => return None,
    })
}

fn time(time: Timestamp) -> String {
    jiff::Timestamp::from_millisecond(time.0).map_or_else(|_| String::new(), |at| at.to_string())
}

/// Returns a line of the file of answers.
pub(super) fn line(request: &Request, status: u16, body: Value) -> Value {
    let mut line = json!({
        "time": "2027-01-15T08:00:00.000Z",
        "user": request.user,
        "campaign": request.campaign,
        "status": status,
        "body": body,
    });
    if let Some(key) = &request.idempotency_key {
        line["key"] = json!(key);
    }
    line
}
