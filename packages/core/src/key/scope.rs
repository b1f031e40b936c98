//! What a key may do.

/// One permission.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scope {
    /// Submit, continue, cancel and delete.
    RunsWrite,
    /// Look at runs, sessions, gates and events.
    RunsRead,
    /// Give verdicts at gates.
    GatesDecide,
    /// Everything within the key's reach, its keys included.
    Admin,
}

impl Scope {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::RunsWrite, Self::RunsRead, Self::GatesDecide, Self::Admin];

    /// Its name on the wire and in the store.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::RunsWrite => "runs:write",
            Self::RunsRead => "runs:read",
            Self::GatesDecide => "gates:decide",
            Self::Admin => "admin",
        }
    }

    /// Reads a name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|s| s.as_str() == name)
    }

    fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// A set of permissions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Scopes(u8);

impl Scopes {
    /// These permissions.
    pub fn of(scopes: impl IntoIterator<Item = Scope>) -> Self {
        Self(scopes.into_iter().fold(0, |bits, s| bits | s.bit()))
    }

    /// Every permission.
    #[must_use]
    pub fn all() -> Self {
        Self::of(Scope::ALL)
    }

    /// Whether `scope` is allowed: by name, or because [`Scope::Admin`] implies it.
    #[must_use]
    pub fn allow(self, scope: Scope) -> bool {
        self.0 & (scope.bit() | Scope::Admin.bit()) != 0
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The names, in a fixed order.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        Scope::ALL.into_iter().filter(move |s| self.0 & s.bit() != 0).map(Scope::as_str)
    }

    /// Reads names; the first that is none is the error.
    ///
    /// # Errors
    /// The name that is no scope.
    pub fn parse<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<Self, &'a str> {
        let scopes: Result<Vec<_>, _> = names.into_iter().map(|n| Scope::parse(n).ok_or(n)).collect();
        scopes.map(Self::of)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_are_read_and_written_alike_and_admin_implies_the_rest() {
        let some = Scopes::parse(["gates:decide", "runs:write"]).unwrap();
        assert_eq!(some.names().collect::<Vec<_>>(), ["runs:write", "gates:decide"]);
        assert!(some.allow(Scope::GatesDecide) && !some.allow(Scope::RunsRead) && !some.allow(Scope::Admin));
        assert!(Scope::ALL.into_iter().all(|s| Scopes::of([Scope::Admin]).allow(s)));
        assert!(!Scope::ALL.into_iter().any(|s| Scopes::default().allow(s)));
        assert_eq!(Scopes::parse(["runs:read", "runs:*"]), Err("runs:*"));
        assert_eq!(Scopes::parse(Scopes::all().names()), Ok(Scopes::all()));
    }
}
