"""What differs from dataset to dataset: overrides by name."""

from __future__ import annotations

# The users on whom the design choices were sketched. They are never judged in the test split.
ML_100K_DEVELOPMENT_USERS = """
    8 16 21 38 66 68 69 71 75 85 100 102 110 129 138 142 143 144 147 161 165 170 173 180 184 193 194 198 200 201
    206 227 232 233 237 251 252 259 268 274 276 280 294 296 310 323 336 339 344 346 348 357 372 373 377 380 387
    388 397 398 410 419 420 427 437 439 452 458 460 461 463 471 482 485 487 489 493 509 513 522 537 543 547 550
    576 577 578 580 590 596 609 613 616 618 627 632 638 639 640 642 644 651 655 664 666 676 683 685 686 691 699
    707 713 717 744 750 755 756 766 770 783 785 792 799 810 817 827 828 833 842 848 851 856 857 863 866 873 887
    891 896 897 899 913 914 918 921 928 930 940 942
"""

# What the form of the files implies (Amazon). Reviews of 2014, 2018 and 2023 have stars and times: defaults stand.
# Sequences have neither: the user's next item against another user's (DIN's protocol). A step holds about a dozen
# labels everywhere: where requests are small, it takes several of them.
FORMS: dict[str, dict[str, dict]] = {
    "sequences": {
        "data": {"files": ("interactions.csv", "items.csv"), "clock": "order", "label_rule": "sampled-negatives",
                 "split_rule": "last-three", "rating_range": (1.0, 1.0), "n_label_rows": 2600, "n_test_rows": 1800},
        "heads": {"requests_per_step": 6, "n_eval_rows": 300}, "report": {"time_split": False},
    },
}  # fmt: skip

# Labels to learn from: as many as let a run at `laptop` size end within 45 minutes on two slow cores. Where requests
# are small the shared prefix is most of the work, in training and in scoring: fewer rows are then judged, too.
DATASETS: dict[str, dict[str, dict]] = {
    "ml-100k": {
        "data": {"development_users": tuple(ML_100K_DEVELOPMENT_USERS.split()), "n_label_rows": 5400},
        # on validation the main row is near chance with the usual 1,000 labels: there is nothing to take away from it
        "ablation": {"n_label_rows": 2600, "n_test_rows": 2560},
    },
    "ml-1m": {"data": {"n_label_rows": 4200}},
    "bookcrossing": {
        "data": {"item_noun": "book", "min_click_rating": 7.0, "rating_range": (1.0, 10.0), "zero_is_no_rating": True,
                 "clock": "none", "min_ratings": 5, "max_user_rows": 200, "n_label_rows": 3000, "n_test_rows": 1800,
                 "label_variants": {
                     "own median": {"label_rule": "own-median"},
                     "zeros are negative": {"zero_is_no_rating": False, "rating_range": (0.0, 10.0)},
                 }},
        "heads": {"requests_per_step": 4}, "report": {"time_split": False},
    },
    "amazon-beauty": {"data": {"form": "sequences", "item_noun": "product"}},
    # the table's models learn from as many labels as on MovieLens-100K
    "amazon-video-games": {"data": {"form": "sequences", "item_noun": "game"}, "ablation": {"n_label_rows": 2600}},
}  # fmt: skip
