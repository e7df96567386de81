//! Rebuilds a campaign's state below the start of a trimmed log from its rows, as a starting node
//! does, and checks these rows against each other.

use futures_util::StreamExt;

use super::{
    AuditError, Context,
    finding::{FindingKind, Findings},
    model::{Derived, Model, PartitionContext},
    rules,
};
use crate::{
    domain::{
        coupon::Coupon,
        definition::DefinitionVersion,
        ids::{CampaignId, Offset, Sequence, Timestamp},
    },
    store::Selection,
};

/// Returns the campaign's model built from its rows below `from`.
pub(super) async fn load(
    context: &Context,
    campaign: &CampaignId,
    place: PartitionContext,
    from: Offset,
    findings: &mut Findings,
) -> Result<Model, AuditError> {
    let rows = context.ports.store.campaign(campaign, place.partition).await?;
    let mut base = Base { model: Model::new(campaign.clone(), place), findings };
    base.model.versions =
        rows.versions.into_iter().filter(|version| version.position.offset < from).collect();
    let mut pages = context.ports.store.coupons(campaign, Selection::All);
    while let Some(page) = pages.next().await {
        for coupon in page?.iter().filter(|coupon| coupon.position.offset < from) {
            base.coupon(coupon);
        }
    }
    base.check_versions();
    let mut model = base.model;
    model.coupons_from_rows = model.coupons.len();
    model.versions_from_rows = model.versions.len();
    Ok(model)
}

struct Base<'a> {
    model: Model,
    findings: &'a mut Findings,
}

impl Base<'_> {
    fn find(
        &mut self,
        kind: FindingKind,
        offset: Offset,
        sequence: Option<Sequence>,
        detail: String,
    ) {
        let place = self.model.at(offset, sequence);
        self.findings.add(kind, place, detail);
    }

    /// Takes the next row. Missing rows and wrong digests are found later, when all rows are
    /// compared with the model.
    fn coupon(&mut self, coupon: &Coupon) {
        let (offset, sequence) = (coupon.position.offset, coupon.sequence);
        let definition = self.model.definition_at(offset).cloned();
        let quota = definition.as_ref().map_or(0, |definition| definition.terms.quota);
        if sequence == 0 || sequence > quota {
            return;
        }
        self.skip_to(sequence);
        if let Some(fault) = definition.and_then(|definition| {
            let reason = rules::rejection(&definition, sequence - 1, coupon.issued_at)?;
            Some(format!("coupon {sequence} was issued while the campaign was {}", reason.name()))
        }) {
            self.find(FindingKind::CouponUnderivable, offset, Some(sequence), fault);
        }
        let limit = self
            .model
            .definition_at(offset)
            .map_or(0, |definition| u32::from(definition.terms.per_user_limit));
        let held = self.model.held(&coupon.user);
        if held >= limit {
            let detail = format!("{} held {held} of {limit} before coupon {sequence}", coupon.user);
            self.find(FindingKind::CouponBeyondLimit, offset, Some(sequence), detail);
        }
        if *self.model.code(sequence, &coupon.user) != *coupon.code {
            let detail = format!("coupon {sequence}: this instance would derive another code");
            self.find(FindingKind::CouponCode, offset, Some(sequence), detail);
        }
        match self.model.coupons.last().map(|last| last.offset) {
            Some(last) if last == offset => {
                let detail =
                    format!("coupons {} and {sequence} have the same request", sequence - 1);
                self.find(FindingKind::TwoForOneRequest, offset, Some(sequence), detail);
            }
            Some(last) if last > offset => {
                let detail =
                    format!("coupon {sequence} is below the position of the coupon before it");
                self.find(FindingKind::CouponMoved, offset, Some(sequence), detail);
            }
            _ => {}
        }
        if coupon.position != self.model.position(offset) {
            let detail = format!("coupon {sequence} names another partition or log epoch");
            self.find(FindingKind::CouponMoved, offset, Some(sequence), detail);
        }
        self.model.take(coupon, coupon.digest);
    }

    /// Fills the sequences of absent rows with placeholders; they are reported as missing later.
    fn skip_to(&mut self, sequence: Sequence) {
        let offset = self.model.coupons.last().map_or(0, |last| last.offset);
        let missing = Derived { digest: [0; 16], offset, time: Timestamp(0), user: 0 };
        self.model.coupons.resize((sequence - 1) as usize, missing);
    }

    fn check_versions(&mut self) {
        let mut before: Option<DefinitionVersion> = None;
        for version in self.model.versions.clone() {
            let offset = version.position.offset;
            let found = self.model.issued_below(offset);
            if version.issued != found {
                let detail =
                    format!("counts {} coupons below it, but {found} have rows", version.issued);
                self.find(FindingKind::VersionMiscounts, offset, None, detail);
            }
            let definition = &version.definition;
            let wrong = match before.as_ref().map(|version| &version.definition) {
                Some(before) if before.terms.code != definition.terms.code => {
                    Some("the code format changed, which no amendment can do")
                }
                Some(before) if found > 0 && before.user_buckets != definition.user_buckets => {
                    Some("the number of buckets changed after the first coupon")
                }
                Some(before) if before.closed && !definition.closed => {
                    Some("it reopens a closed campaign")
                }
                _ if found == 0
                    && definition.user_buckets != rules::user_buckets(definition.terms.quota) =>
                {
                    Some("the number of buckets does not follow from the quota")
                }
                _ if !rules::is_valid(&definition.terms) => Some("its terms are invalid"),
                _ if definition.terms.quota < found => {
                    Some("its quota is below the coupons issued")
                }
                _ => None,
            };
            if let Some(fault) = wrong {
                self.find(FindingKind::VersionWrong, offset, None, fault.to_owned());
            }
            before = Some(version);
        }
    }
}
