"""How large a run is: overrides by profile. No other module asks which profile is running."""

from __future__ import annotations

PROFILES: dict[str, dict[str, dict]] = {
    "smoke": {
        "data": {"max_users": 80, "max_candidates": 6, "n_label_rows": 120, "n_select_rows": 80,
                 "n_risk_rows": 40, "n_test_rows": 120},
        "baselines": {"mf_epochs": 3},
        "click_models": {"max_passes": 2, "network_trials": ((8, 1e-2, 1e-4, 0.0),), "boosted_trials": ((4, 0.1, 20),),
                         "logistic_trials": ((1.0, 1),)},
        "retriever": {"embedding_dim": 8, "epochs": 2, "batch_size": 1024},
        "retrievers": {"n_llm_rows": 30, "n_lookups": 4, "n_history": 3},
        "probes": {"n_rows": 30, "n_worded_rows": 12, "n_neighbors": (0, 2), "n_history": (0, 4), "n_wordings": 2,
                   "groups": (3,)},
        "prompt": {"n_history": 3},
        "backbone": {"source": "random-llama"},
        "heads": {"exit_layers": (1, 2, 3, 4, 5, 6), "lora_rank": 2, "lora_alpha": 4, "evaluations": 2,
                  "n_eval_rows": 40, "n_init_rows": 40, "checkpoint_steps": 5},
        "policy": {"n_thresholds": 8, "n_bootstrap": 200, "shuffles": 3},
        "latency": {"n_requests": 4, "warmup_requests": 1, "repeats": 1, "plain_batch_sizes": (1, 4)},
        "bench": {"candidates": (1, 4), "n_requests": (2, 2), "repeats": 1, "n_tuning_requests": 1,
                  "llama_settings": (("packed", "F32"),), "n_quality_requests": 3, "n_startups": 2,
                  "n_stage_requests": 3,
                  "n_growth_repeats": 1, "n_service_requests": 4, "load_of_capacity": (0.5, 2.0), "n_arrivals": 200,
                  "real_run_s": 1.0},
        "ablation": {"n_label_rows": 40, "n_select_rows": 80, "n_test_rows": 60, "n_init_rows": 20, "n_eval_rows": 20},
        "report": {"n_examples": 5, "reference_scope": "counts"},
    },
    "laptop": {},
    "overnight": {
        "data": {"n_label_rows": None, "n_select_rows": None, "n_risk_rows": None, "n_test_rows": None},
    },
    "full": {
        "data": {"n_label_rows": None, "n_select_rows": None, "n_risk_rows": None, "n_test_rows": None},
        "backbone": {"dtype": "bfloat16"},
    },
}
