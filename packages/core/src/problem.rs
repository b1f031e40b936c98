//! The stable error codes of the HTTP surface, with their status and title.

/// A stable code. Its wire name never changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Code {
    /// The body is not JSON.
    InvalidJson,
    /// `prompt` is missing or blank.
    PromptRequired,
    /// The envelope has a wrong, unknown or missing field.
    EnvelopeInvalid,
    /// The file is not a session that can be imported.
    ImportInvalid,
    /// A query parameter or header is wrong.
    RequestInvalid,
    /// `sessionId` is missing.
    SessionIdRequired,
    /// No such session for this caller.
    SessionNotFound,
    /// The session is not idle.
    SessionBusy,
    /// No such run for this caller.
    RunNotFound,
    /// The run has no such gate.
    GateNotFound,
    /// A gate waits for its verdict.
    GatePending,
    /// The gate has another verdict, or takes none any more.
    GateConflict,
    /// The run was not given up.
    NotDeadLetter,
    /// The key was used with another body.
    IdempotencyConflict,
    /// The run came before and its record has expired.
    RunExpired,
    /// The body is over the limit.
    PayloadTooLarge,
    /// No sandbox is configured, and the work needs one.
    NoSandbox,
    /// A dependency is down or the server is full.
    Unavailable,
    /// No credential, or one that does not work.
    Unauthorized,
    /// The credential does not allow this.
    Forbidden,
    /// Too many requests with one credential, or too many without.
    RateLimited,
    /// No such API key for this caller.
    KeyNotFound,
    /// The API key cannot be made or changed so.
    KeyConflict,
    /// No such schedule for this caller.
    ScheduleNotFound,
    /// No such route.
    NotFound,
    /// The route exists, not with this method.
    MethodNotAllowed,
    /// The body did not arrive in time.
    RequestTimeout,
    /// A bug; the log has the details.
    Internal,
}

impl Code {
    /// Wire name, HTTP status and title.
    #[must_use]
    pub fn describe(self) -> (&'static str, u16, &'static str) {
        match self {
            Self::InvalidJson => ("invalid_json", 400, "The body is not valid JSON"),
            Self::PromptRequired => ("prompt_required", 400, "A prompt is required"),
            Self::EnvelopeInvalid => ("envelope_invalid", 400, "The envelope is not valid"),
            Self::ImportInvalid => ("import_invalid", 400, "The file cannot be imported"),
            Self::RequestInvalid => ("request_invalid", 400, "The request is not valid"),
            Self::SessionIdRequired => ("sessionId_required", 400, "A session id is required"),
            Self::SessionNotFound => ("session_not_found", 404, "There is no such session"),
            Self::SessionBusy => ("session_busy", 409, "The session is not idle"),
            Self::RunNotFound => ("run_not_found", 404, "There is no such run"),
            Self::GateNotFound => ("gate_not_found", 404, "There is no such gate"),
            Self::GatePending => ("gate_pending", 409, "A gate of the session waits for its verdict"),
            Self::GateConflict => ("gate_conflict", 409, "The gate takes no such verdict any more"),
            Self::NotDeadLetter => ("not_dead_letter", 409, "The run is no dead letter that could be driven again"),
            Self::IdempotencyConflict => ("idempotency_conflict", 409, "The key was used with another body"),
            Self::RunExpired => ("run_expired", 410, "The run has been and its record has expired"),
            Self::PayloadTooLarge => ("payload_too_large", 413, "The body is too large"),
            Self::NoSandbox => ("no_sandbox", 400, "The work needs a sandbox and none is configured"),
            Self::Unavailable => ("unavailable", 503, "The service cannot answer now"),
            Self::Unauthorized => ("unauthorized", 401, "A working API key is required"),
            Self::Forbidden => ("forbidden", 403, "The API key does not allow this"),
            Self::RateLimited => ("rate_limited", 429, "Too many requests"),
            Self::KeyNotFound => ("key_not_found", 404, "There is no such API key"),
            Self::KeyConflict => ("key_conflict", 409, "The API key cannot be made or changed so"),
            Self::ScheduleNotFound => ("schedule_not_found", 404, "There is no such schedule"),
            Self::NotFound => ("not_found", 404, "There is no such route"),
            Self::MethodNotAllowed => ("method_not_allowed", 405, "The route does not take this method"),
            Self::RequestTimeout => ("request_timeout", 408, "The body did not arrive in time"),
            Self::Internal => ("internal", 500, "Something went wrong"),
        }
    }
}
