//! Every client keeps every promise of the model seam.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod remote {
    use std::sync::Arc;
    use std::time::Duration;

    use torpor_core::model::Ref;
    use torpor_model::{Config, Models, Secret, config};
    use torpor_testkit::conformance::model::Model;
    use torpor_testkit::model_server::{ModelServer, script};

    /// A provider behind HTTP, played by the model server.
    pub(crate) async fn fresh(model: &str) -> Model {
        let server = ModelServer::start().await;
        let (key, base_url) = (Some(Secret::new("key")), Some(server.base_url()));
        let config = Config {
            anthropic: config::Anthropic {
                api_key: key.clone(),
                base_url: base_url.clone(),
                ..config::Anthropic::default()
            },
            openai: config::Openai { api_key: key, base_url, ..config::Openai::default() },
            http: config::Http { idle_timeout: Duration::from_secs(1), ..config::Http::default() },
            ..Config::default()
        };
        let script = |s: &str| format!("please [[s:{s}]]");
        let faults =
            ["err=429", "err=500", "err=529", "cut", "garbled", "html", "empty", "badjson", "overloaded", "hangmid"];
        let truncated = format!("truncjson={}", script::encode("touch F; echo "));
        Model {
            client: Arc::new(Models::new(&config).unwrap()),
            model: Ref::parse(model).unwrap(),
            says: script("text"),
            calls: script(&format!("bash={}", script::encode("true"))),
            faults: faults.iter().map(|f| (*f, script(f))).chain([("truncjson", script(&truncated))]).collect(),
            keep: Box::new(server),
        }
    }
}

mod anthropic {
    async fn fresh() -> torpor_testkit::conformance::model::Model {
        crate::remote::fresh("anthropic/claude-test").await
    }

    torpor_testkit::model_conformance!(fresh);
}

mod openai {
    async fn fresh() -> torpor_testkit::conformance::model::Model {
        crate::remote::fresh("openai/test-model").await
    }

    torpor_testkit::model_conformance!(fresh);
}

mod scripted {
    use std::sync::Arc;

    use serde_json::json;
    use torpor_core::model::Ref;
    use torpor_model::{Config, Models};
    use torpor_testkit::conformance::model::Model;

    async fn fresh() -> Model {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("turns.json");
        let script = json!({"scripts": [
            {"when": "call", "turns": [{"tools": [{"name": "bash", "input": {"command": "true"}}]}]},
            {"when": "fault", "turns": [{"error": {"status": 529, "message": "overloaded"}}]},
            {"turns": [{"text": "done"}]},
        ]});
        std::fs::write(&file, script.to_string()).unwrap();
        Model {
            client: Arc::new(Models::new(&Config::default()).unwrap()),
            model: Ref { provider: "scripted".into(), model: file.to_str().unwrap().to_owned() },
            says: "say".into(),
            calls: "call".into(),
            faults: vec![("scripted error", "fault".into())],
            keep: Box::new(dir),
        }
    }

    torpor_testkit::model_conformance!(fresh);
}
