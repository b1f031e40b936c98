//! The fake's sessions.

use async_trait::async_trait;
use torpor_core::envelope::Wishes;
use torpor_core::run::RunStore as _;
use torpor_core::session::{
    self, Fork, Forked, Import, ImportError, Importer, Removal, SessionStore, Stored, ToForget,
};
use torpor_core::{Position, SessionKey, Timestamp, store};

use super::Fake;

/// Sessions are tested with the real store; here each that has a run exists, and nothing that is done to one changes it.
#[async_trait]
impl SessionStore for Fake {
    async fn session(&self, session: &SessionKey) -> Result<Option<session::Summary>, store::Error> {
        let record = self.latest(session).await?;
        Ok(record.map(|record| session::Summary {
            session: record.session,
            life: 1,
            head: Position(0),
            created_at: record.created_at,
            updated_at: record.created_at,
            forked_from: None,
            forks: 0,
            front: None,
            pending_gates: 0,
        }))
    }

    async fn sessions(&self, filter: &session::Filter) -> Result<session::Page, store::Error> {
        self.up()?;
        let mut sessions = Vec::new();
        for record in self.records() {
            let mine = filter.tenant.as_deref().is_none_or(|t| t == record.session.tenant());
            sessions.extend(self.session(&record.session).await?.filter(|_| mine));
        }
        Ok(session::Page { sessions, next: None })
    }

    async fn wishes(&self, _: &SessionKey) -> Result<Option<Wishes>, store::Error> {
        Ok(Some(Wishes::default()))
    }

    async fn fork(&self, fork: &Fork) -> Result<Forked, store::Error> {
        Ok(self.session(&fork.from).await?.map_or(Forked::Unknown, |_| Forked::Created))
    }

    async fn remove(&self, session: &SessionKey) -> Result<Removal, store::Error> {
        Ok(self.session(session).await?.map_or(Removal::Unknown, |_| Removal::Removed(Default::default())))
    }

    async fn remove_idle(&self, _: Timestamp, _: usize) -> Result<u64, store::Error> {
        Ok(0)
    }

    async fn to_forget(&self, _: usize) -> Result<Vec<ToForget>, store::Error> {
        Ok(Vec::new())
    }

    async fn forgotten(&self, _: &ToForget) -> Result<(), store::Error> {
        Ok(())
    }

    async fn stored(&self, _: &SessionKey, _: u64, _: Position, _: usize) -> Result<Vec<Stored>, store::Error> {
        Ok(Vec::new())
    }

    async fn import(&self, _: Import) -> Result<Box<dyn Importer>, ImportError> {
        self.up()?;
        Ok(Box::new(Swallow(0)))
    }
}

/// An import that only counts.
struct Swallow(u64);

#[async_trait]
impl Importer for Swallow {
    async fn push(&mut self, entries: Vec<Stored>) -> Result<(), ImportError> {
        self.0 += entries.len() as u64;
        Ok(())
    }

    async fn finish(self: Box<Self>) -> Result<Position, ImportError> {
        Ok(Position(self.0))
    }
}
