//! One conformance suite per seam: the promises of the traits' doc comments, as tests that run against any
//! implementation.
//!
//! An implementation gives a function that makes a fresh [`Fixture`] and writes
//! `torpor_testkit::conformance!(its_function);` in a test file: every promise becomes a test of its own, so that a
//! failure names the promise. The suites know no store and no clock: time passes by [`Time`].

// The code of a test suite: a failed expectation is its result.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

pub mod accept;
pub mod cancel;
pub mod files;
pub mod gates;
pub mod keys;
pub mod letters;
pub mod log;
pub mod model;
pub mod outbox;
pub mod queue;
pub mod relay;
pub mod runs;
pub mod sandbox;
pub mod schedules;
pub mod sessions;
pub mod small;
#[cfg(test)]
mod tests;
pub mod volume;

use std::any::Any;
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::future::BoxFuture;
use torpor_core::dead_letter::{self, Letter, LetterStore};
use torpor_core::entry::Body;
use torpor_core::gate::GateStore;
use torpor_core::log::{AppendError, SessionLog};
use torpor_core::queue::{Enqueued, Lease, NewRun, WorkQueue};
use torpor_core::run::{Record, RunStore};
use torpor_core::session::SessionStore;
use torpor_core::webhook::Outbox;
use torpor_core::{Clock as _, Position, RunId, SessionKey, Timestamp};

use crate::clock::ManualClock;
use crate::sample::{claimed, created, done, ended, first, first_claimed, write};

/// How the time of a store under test passes.
#[async_trait]
pub trait Time: Send + Sync + 'static {
    /// Lets at least `by` pass on the store's clock.
    async fn pass(&self, by: Duration);

    /// The store's clock.
    fn now(&self) -> Timestamp;
}

#[async_trait]
impl Time for ManualClock {
    async fn pass(&self, by: Duration) {
        self.advance(by);
    }

    fn now(&self) -> Timestamp {
        torpor_core::Clock::now(self)
    }
}

/// The machine's time, for a store that cannot be given another.
#[derive(Debug, Clone, Copy, Default)]
pub struct RealTime;

#[async_trait]
impl Time for RealTime {
    async fn pass(&self, by: Duration) {
        tokio::time::sleep(by).await;
    }

    fn now(&self) -> Timestamp {
        torpor_core::SystemClock.now()
    }
}

/// Does something to what is stored of a run.
pub type Spoil = Box<dyn Fn(&RunId) -> BoxFuture<'static, ()> + Send + Sync>;

/// A fresh, empty store to test.
pub struct Fixture {
    /// Its session log.
    pub log: Arc<dyn SessionLog>,
    /// Its queue.
    pub queue: Arc<dyn WorkQueue>,
    /// Its records.
    pub runs: Arc<dyn RunStore>,
    /// Its gates.
    pub gates: Arc<dyn GateStore>,
    /// Its webhooks.
    pub outbox: Arc<dyn Outbox>,
    /// Its sessions as such.
    pub sessions: Arc<dyn SessionStore>,
    /// Its dead letters.
    pub letters: Arc<dyn LetterStore>,
    /// How long its leases last.
    pub lease: Duration,
    /// How long it keeps terminal records; longer than a few leases.
    pub result_ttl: Duration,
    /// How long it keeps dead letters, and their records; longer than `result_ttl`.
    pub dead_letter_ttl: Duration,
    /// How many dead letters it keeps; a few dozen.
    pub max_dead_letters: usize,
    /// Its time.
    pub time: Arc<dyn Time>,
    /// Changes what is stored of a run into something this build cannot read, as it would be had a newer build
    /// accepted it.
    pub spoil: Spoil,
    /// Takes that back, so that this build is the newer one.
    pub mend: Spoil,
    /// What has to live as long as the store (a folder, a server).
    pub keep: Box<dyn Any + Send + Sync>,
}

impl fmt::Debug for Fixture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fixture").field("lease", &self.lease).finish_non_exhaustive()
    }
}

/// How long a test waits for what should happen at once, before it fails instead of hanging.
const PATIENCE: Duration = Duration::from_secs(20);

impl Fixture {
    /// Lets time pass.
    async fn pass(&self, by: Duration) {
        self.time.pass(by).await;
    }

    /// Lets so much pass that every lease taken before has ended.
    async fn expire_leases(&self) {
        self.pass(self.lease + Duration::from_millis(1)).await;
    }

    /// Lets time pass until `future` is ready.
    async fn while_time_passes<T>(&self, future: impl Future<Output = T>) -> T {
        let mut future = std::pin::pin!(future);
        let step = self.lease / 10;
        let passing = async {
            loop {
                self.pass(step).await;
                tokio::time::sleep(Duration::from_millis(1)).await; // lets the store's own threads see it
            }
        };
        let both = async {
            tokio::select! {
                biased;
                value = &mut future => value,
                never = passing => never,
            }
        };
        soon(both).await
    }

    async fn enqueue(&self, new: NewRun) -> Enqueued {
        self.queue.enqueue(new).await.expect("the store accepts a run")
    }

    /// Submits the first run of a session.
    async fn submit(&self, session: &str) -> Record {
        created(self.enqueue(first(session)).await)
    }

    async fn claim(&self, worker: &str, max: usize) -> Vec<Lease> {
        self.queue.claim(&worker.into(), max, Duration::ZERO).await.expect("the store answers a claim")
    }

    /// Claims exactly one run, which must be there.
    async fn claim_one(&self, worker: &str) -> Lease {
        let mut leases = self.claim(worker, 1).await;
        assert_eq!(leases.len(), 1, "one run should be claimable");
        leases.remove(0)
    }

    /// Submits the first run of a session and claims it.
    async fn running(&self, session: &str) -> Lease {
        claimed(self.enqueue(first_claimed(session)).await)
    }

    async fn append(&self, lease: &Lease, after: u64, bodies: Vec<Body>) -> Result<Position, AppendError> {
        self.log.append(write(lease, after, bodies)).await
    }

    /// Ends a run whose log has its head at `after`.
    async fn finish(&self, lease: &Lease, after: u64) {
        let end = ended(lease, done("ok"));
        self.append(lease, after, vec![end]).await.expect("the owner may end its run");
    }

    async fn record(&self, run: &RunId) -> Record {
        self.runs.get(run).await.expect("the store answers").expect("the record exists")
    }

    /// The dead letters, the newest first.
    async fn letters(&self) -> Vec<Letter> {
        let all = dead_letter::Filter { limit: 200, ..dead_letter::Filter::default() };
        self.letters.letters(&all).await.expect("the store answers").letters
    }

    /// The stored positions of a session, as a reader sees them.
    async fn positions(&self, session: &SessionKey) -> Vec<u64> {
        let entries = self.log.read(session, Position(1), 1_000).await.expect("the store answers");
        entries.iter().map(|e| e.position.0).collect()
    }
}

/// What a suite is run with: a fixture, or none where something is not installed that the store under test needs. Whoever
/// answers none says so loudly.
pub trait Fresh<T> {
    /// The fixture.
    fn given(self) -> Option<T>;
}

impl<T> Fresh<T> for T {
    fn given(self) -> Option<T> {
        Some(self)
    }
}

impl<T> Fresh<T> for Option<T> {
    fn given(self) -> Option<T> {
        self
    }
}

/// Fails instead of hanging.
async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("this should have happened long ago")
}

/// Expands into one test per promise of the store seams. `$fresh` is the path of an
/// `async fn() -> Fixture`, or `-> Option<Fixture>` ([`Fresh`](crate::conformance::Fresh)).
#[macro_export]
macro_rules! conformance {
    ($fresh:path) => {
        $crate::conformance_cases!($fresh, log: [
            appends_take_the_next_positions
            only_submitted_sessions_exist
            bodies_come_back_unchanged
            reads_are_paged
            reads_of_large_entries_are_short
            another_epoch_is_fenced_and_changes_nothing
            appending_to_no_session_is_fenced
            a_repeated_append_is_stored_once
            a_repeated_run_end_is_answered_again
            a_wrong_head_is_a_conflict
            one_of_racing_appends_wins
            mistaken_batches_are_refused_whole
            a_checkpoint_moves_where_resume_begins
            the_end_of_a_run_settles_everything_at_once
            every_outcome_settles_under_its_status
            nobody_writes_without_the_lease
            an_expired_owner_writes_until_someone_claims
            sessions_that_look_alike_stay_apart
            waiting_sees_a_log_grow
        ]);
        $crate::conformance_cases!($fresh, accept: [
            parallel_posts_of_one_key_make_one_run
            a_key_names_one_run_and_one_body
            a_run_keeps_the_trace_of_its_first_post
            keys_of_tenants_do_not_collide
            a_run_says_what_its_session_must_be
            the_post_that_made_a_session_is_recognised
            a_further_run_inherits_the_wishes_of_the_first
            a_run_id_is_used_once
        ]);
        $crate::conformance_cases!($fresh, queue: [
            a_claim_hands_over_the_accepted_run
            runs_of_a_session_are_served_in_order
            higher_priority_goes_first_then_the_oldest
            a_run_waits_for_its_time
            a_blocked_run_keeps_its_time
            a_submit_can_claim_in_the_same_step
            an_expired_lease_is_claimed_and_its_owner_fenced
            heartbeats_keep_a_lease
            a_late_heartbeat_revives_an_unclaimed_lease
            a_heartbeat_names_what_is_lost
            handing_back_burns_no_attempt
            a_retry_counts_and_a_wait_does_not
            attempts_are_counted_since_the_last_progress
            a_waiting_claim_gets_a_new_run
            a_waiting_claim_gets_what_becomes_free
            a_waiting_claim_is_woken_by_time
            a_claim_gives_up_when_its_wait_is_over
            every_waiting_worker_is_served
            parallel_claims_never_share_a_run
            dead_letters_are_kept
            an_unreadable_run_is_set_aside
            unreadable_runs_keep_no_claim_waiting
            the_backlog_counts_every_run_once
        ]);
        $crate::conformance_cases!($fresh, cancel: [
            cancelling_what_is_over_changes_nothing
            an_unstarted_run_is_cancelled_at_once
            a_delayed_run_is_cancelled_at_once
            the_owner_hears_of_a_cancel
            the_next_owner_hears_of_a_cancel
            an_owner_that_comes_back_hears_of_a_cancel
            a_started_run_that_waits_is_handed_out_to_be_ended
            waiting_for_cancels_ends_in_time
        ]);
        $crate::conformance_cases!($fresh, gates: [
            a_gate_parks_its_run
            mistaken_gates_are_refused_whole
            a_verdict_is_an_entry_and_wakes_the_run
            a_verdict_wakes_those_who_wait
            several_gates_are_decided_one_by_one
            a_second_verdict_has_no_effect
            one_of_racing_verdicts_stands
            an_abort_closes_the_other_gates
            an_abort_is_recognised_without_its_gate
            pages_with_gates_end_before_they_grow_large
            gates_go_with_their_record
            a_gate_expires_by_itself
            a_cancel_closes_the_gates
            a_gate_does_not_hold_a_cancelled_run
            the_session_waits_behind_its_gate
            an_interrupt_goes_first
            gates_are_listed
            a_repeated_gate_is_stored_once
        ]);
        $crate::conformance_cases!($fresh, outbox: [
            a_run_without_a_target_posts_nothing
            the_end_of_a_run_is_posted_with_it
            a_gate_is_posted_with_it
            a_cancel_before_the_start_is_posted
            a_refused_or_repeated_end_posts_nothing_more
            further_runs_keep_the_target
            a_claim_keeps_others_off_until_it_lapses
            racing_claims_never_share_a_message
            a_failed_message_waits_for_its_time
            what_is_over_is_never_claimed_again
            a_late_note_counts_only_if_it_was_received
            a_waiting_claim_is_woken_by_a_post
            a_waiting_claim_is_woken_by_time
            the_longest_due_goes_first
            a_pending_message_outlives_its_record
            messages_are_work_to_wake_for
        ]);
        $crate::conformance_cases!($fresh, files: [
            an_end_says_where_it_stands
            an_end_without_an_entry_is_posted_too
            gates_are_posted_as_they_come_and_go
            an_expired_gate_is_posted
            each_channel_is_claimed_for_itself
            a_waiting_claim_hears_of_its_channel
            further_runs_write_no_files
            what_is_driven_again_writes_its_files
        ]);
        $crate::conformance_cases!($fresh, runs: [
            an_unknown_run_has_no_record
            a_record_follows_its_run
            the_latest_run_is_the_one_accepted_last
            lists_are_paged_from_the_newest
            lists_are_filtered
            lists_leave_out_what_cannot_be_read
            pages_end_before_they_grow_large
            foreign_cursors_are_refused
            wait_answers_at_once_what_is_new
            wait_is_woken_by_the_change
            wait_sees_claims_and_releases
            wait_gives_up_in_time
            sweep_removes_what_has_ended_long_ago
            a_working_store_answers_a_ping
        ]);
        $crate::conformance_cases!($fresh, letters: [
            letters_are_listed
            what_was_given_up_is_posted_again
            what_was_set_aside_goes_back
            what_is_driven_again_waits_its_turn
            what_waits_its_turn_again_is_cancelled
            only_dead_letters_are_driven_again
            a_dead_letter_keeps_its_record
            so_many_letters_are_kept_and_no_more
        ]);
        $crate::conformance_cases!($fresh, sessions: [
            a_session_is_described
            sessions_are_listed
            a_fork_shares_history_and_goes_on_by_itself
            any_moment_can_be_forked
            a_fork_resumes_where_its_own_history_says
            forks_are_refused_by_reason
            histories_have_so_many_parts_and_no_more
            a_fork_inherits_what_is_carried
            a_removal_takes_everything
            a_busy_session_stays
            what_forks_share_goes_with_the_last_of_them
            a_removed_session_is_over_for_its_owner
            idle_sessions_are_removed
            an_import_is_what_was_exported
            an_import_ends_what_was_under_way
            an_import_is_whole_or_nothing
        ]);
    };
}

/// The suite of the sandbox seam: every promise a test. `$fresh` makes a fresh [`sandbox::Hands`].
#[macro_export]
macro_rules! sandbox_conformance {
    ($fresh:path) => {
        $crate::conformance_cases!($fresh, sandbox: [
            a_call_runs_and_answers
            an_id_runs_once_and_answers_the_same
            calls_run_at_the_same_time
            a_dropped_call_goes_on_and_is_attached_to
            cancel_ends_a_call
            an_id_of_other_hands_is_lost
            a_call_is_lost_with_its_hands
            a_lower_epoch_is_refused
            the_fence_outlives_the_hands
            the_working_directory_does_not_change
            a_forgotten_session_is_unknown_and_fenced
            an_earlier_life_is_forgotten_when_a_later_one_is_opened
            forgetting_ends_what_runs
            forgetting_is_repeated_without_harm
            forgetting_needs_an_epoch_that_is_not_fenced
        ]);
    };
}

/// The suite of the model seam: every promise a test. `$fresh` makes a fresh [`model::Model`].
#[macro_export]
macro_rules! model_conformance {
    ($fresh:path) => {
        $crate::conformance_cases!($fresh, model: [
            preparing_is_pure
            an_unknown_provider_is_refused_for_good
            an_answer_comes_whole
            tool_arguments_are_objects
            a_broken_answer_is_an_error_to_retry
        ]);
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! conformance_cases {
    ($fresh:path, $suite:ident: [$($case:ident)*]) => {
        mod $suite {
            use super::*;
            $(
                #[tokio::test]
                async fn $case() {
                    if let Some(fixture) = $crate::conformance::Fresh::given($fresh().await) {
                        $crate::conformance::$suite::$case(fixture).await;
                    }
                }
            )*
        }
    };
}
