//! Dead letters of the fake: every run that has ended is one, and is driven again as it was before.

use async_trait::async_trait;
use torpor_core::dead_letter::{Again, Filter, Letter, LetterStore, Page, Redrive, Redriven};
use torpor_core::store;

use super::Fake;

#[async_trait]
impl LetterStore for Fake {
    async fn letters(&self, filter: &Filter) -> Result<Page, store::Error> {
        self.up()?;
        let records = self.records();
        let ended = records.iter().rev().filter_map(|r| Some((r, r.ended_at?)));
        let of = |tenant: &str| filter.tenant.as_deref().is_none_or(|t| t == tenant);
        let letters = ended.filter(|(r, _)| of(r.session.tenant())).map(|(r, at)| Letter {
            run: r.run_id.clone(),
            tenant: r.session.tenant().to_owned(),
            session: r.session.session().to_owned(),
            reason: "given up".to_owned(),
            at,
            unread: false,
        });
        Ok(Page { letters: letters.take(filter.limit).collect(), next: None })
    }

    async fn redrive(&self, redrive: &Redrive) -> Result<Redriven, store::Error> {
        self.up()?;
        let found = self.records().into_iter().find(|r| r.run_id == redrive.run);
        let found = found.filter(|r| redrive.tenant.as_deref().is_none_or(|t| t == r.session.tenant()));
        let Some(record) = found else { return Ok(Redriven::Unknown) };
        if record.ended_at.is_none() {
            return Ok(Redriven::NotDead);
        }
        Ok(Redriven::Before(Again { run: record.run_id, session: record.session }))
    }
}
