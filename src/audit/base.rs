//! Where the start of the log is gone: a campaign's state below it, taken from its rows as a
//! start of a node takes it, and checked as far as rows alone tell.

use futures_util::StreamExt;

use super::{
    AuditError, Context,
    finding::{FindingKind, Findings},
    model::{Derived, Model, Place},
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

/// A campaign as its rows below `from` give it.
pub(super) async fn load(
    context: &Context,
    campaign: &CampaignId,
    place: Place,
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

    /// Takes the next row. Gaps and what the row says against its own digest are found when all
    /// rows are compared.
    fn coupon(&mut self, coupon: &Coupon) {
        let (offset, sequence) = (coupon.position.offset, coupon.sequence);
        let definition = self.model.definition_at(offset).cloned();
        let quota = definition.as_ref().map_or(0, |definition| definition.terms.quota);
        if sequence == 0 || sequence > quota {
            return;
        }
        self.skip_to(sequence);
        if let Some(fault) = definition.and_then(|definition| {
            let reason = rules::shut(&definition, sequence - 1, coupon.issued_at)?;
            Some(format!("coupon {sequence} was issued where the answer is {}", reason.name()))
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
            let detail = format!("coupon {sequence} has a code that this instance does not spell");
            self.find(FindingKind::CouponCode, offset, Some(sequence), detail);
        }
        match self.model.coupons.last().map(|last| last.offset) {
            Some(last) if last == offset => {
                let detail = format!("coupons {} and {sequence} are of one request", sequence - 1);
                self.find(FindingKind::TwoForOneRequest, offset, Some(sequence), detail);
            }
            Some(last) if last > offset => {
                let detail = format!("coupon {sequence} stands before its predecessor");
                self.find(FindingKind::CouponMoved, offset, Some(sequence), detail);
            }
            _ => {}
        }
        if coupon.position != self.model.position(offset) {
            let detail = format!("coupon {sequence} is of another partition or log epoch");
            self.find(FindingKind::CouponMoved, offset, Some(sequence), detail);
        }
        self.model.take(coupon, coupon.digest);
    }

    /// Leaves room for rows that are not there: they are found missing later.
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
                let detail = format!("says {} coupons below it, found {found}", version.issued);
                self.find(FindingKind::VersionMiscounts, offset, None, detail);
            }
            let definition = &version.definition;
            let wrong = match before.as_ref().map(|version| &version.definition) {
                Some(before) if before.terms.code != definition.terms.code => {
                    Some("its code format is another one than before")
                }
                Some(before) if before.user_buckets != definition.user_buckets => {
                    Some("its number of buckets is another one than before")
                }
                Some(before) if before.closed && !definition.closed => {
                    Some("it opens what was closed for ever")
                }
                _ if !rules::is_sound(&definition.terms) => Some("its terms break a rule"),
                _ if definition.terms.quota < found => Some("its quota is below what is issued"),
                _ => None,
            };
            if let Some(fault) = wrong {
                self.find(FindingKind::VersionWrong, offset, None, fault.to_owned());
            }
            before = Some(version);
        }
    }
}
