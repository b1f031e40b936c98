//! Conformance suites, fakes, fault-injecting wrappers and a model server, for tests only.

pub mod clock;
pub mod conformance;
pub mod crash;
pub mod dice;
pub mod exposition;
pub mod fakes;
pub mod fault_proxy;
pub mod forks;
pub mod history;
pub mod model_server;
pub mod receiver;
pub mod redis;
pub mod sample;
