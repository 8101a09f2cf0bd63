"""The predictions, their feedback, and the row that is written as a probe."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the tables."""
    utc = sa.DateTime(timezone=True)
    op.create_table(
        "predictions",
        sa.Column("seq", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
        sa.Column("id", sa.String, nullable=False, unique=True),
        sa.Column("caller_id", sa.String),
        sa.Column("kind", sa.String, nullable=False),
        sa.Column("source", sa.String, nullable=False),
        sa.Column("label", sa.String, nullable=False),
        sa.Column("probabilities", sa.JSON, nullable=False),
        sa.Column("model", sa.String, nullable=False),
        sa.Column("text", sa.Text),
        sa.Column("text_hash", sa.String),
        sa.Column("client", sa.String),
        sa.Column("observed_at", utc, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_predictions_caller_id", "predictions", ["caller_id", "seq"])
    op.create_index("ix_predictions_observed_at", "predictions", ["observed_at", "seq"])
    op.create_table(
        "feedback",
        sa.Column("prediction_id", sa.String, primary_key=True),
        sa.Column("source", sa.String, primary_key=True),
        sa.Column("label", sa.String, nullable=False),
        sa.Column("received_at", utc, nullable=False),
    )
    op.create_index("ix_feedback_received_at", "feedback", ["received_at"])
    op.create_table(
        "probe",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("written_at", utc, nullable=False),
    )


def downgrade() -> None:
    """Drop the tables, with all that was logged."""
    for table in ("probe", "feedback", "predictions"):
        op.drop_table(table)
