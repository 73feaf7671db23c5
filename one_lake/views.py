"""What people ask of the lake, as views and table functions over its tables; the guide tells each.

one                 the records: exactly one a (topic, logical id)
outcomes            every decision; what the gate refused is no record
answers             every answer of every model, with what became of it
nodes               how each model of each node did, by topic
agreement           how often two models say the same, by topic
costs               what was spent, by day and topic
sources             which records were made from which
supervision         what the supervision root noted: cells, nodes, quarantines, affinities, topics, alerts
weights             how much a record can be relied on
conflicts           which records gave way to another in a merge, and how the two compare
run(name)           what a replay came to
lineage(id)         what an id came from, and what came of it
"""

from one_lake.criteria import CRITERIA
from schemas.one import QUALITY_GATE, TABLES
from schemas.task import TaskStatus

_ONE = "CREATE OR REPLACE VIEW one AS SELECT * FROM records"

_OUTCOMES = f"""
CREATE OR REPLACE VIEW outcomes AS
WITH refused AS (
    SELECT DISTINCT coalesce(cluster, '') AS cluster, lane, decision_offset
    FROM stored.dead_letters WHERE reason = '{QUALITY_GATE}'
)
SELECT rounds.* REPLACE (CASE WHEN refused.lane IS NULL THEN rounds.kind ELSE 'dead' END AS kind)
FROM rounds LEFT JOIN refused ON refused.cluster = coalesce(rounds.cluster, '')
    AND refused.lane = rounds.lane AND refused.decision_offset = rounds.decision_offset
"""  # noqa: S608 - a reason of the schema

# Between the two commits of a merge, or where one was killed there, a record is in both tables, and stands.
_GAVE_WAY = """
CREATE OR REPLACE VIEW gave_way AS
SELECT * FROM stored.superseded ANTI JOIN stored.records USING (cluster, lane, decision_offset)
"""

# A record's provenance tells, in the order of the round's candidates, who gave its answer.
_ANSWERS = """
CREATE OR REPLACE VIEW answers AS
SELECT
    cluster, lane, decision_offset, topic, logical_id, generation, round_index, attempt, kind, decided_at,
    said.node, said.model, nullif(said.version, '') AS version, coalesce(said.sample, 0) AS sample,
    coalesce(said.status, 'ok') AS status, whole(said.text) AS text, said.score AS score,
    nullif(said.error, '') AS error, coalesce(said.tries, 1) AS tries, coalesce(said.latency_s, 0) AS latency_s,
    coalesce(said.tokens_in, 0) + coalesce(said.tokens_out, 0) AS tokens, coalesce(said.cost, 0) AS cost,
    CASE WHEN coalesce(said.status, 'ok') = 'ok' THEN models[place].gave_it END AS gave_it
FROM (
    SELECT
        rounds.*, generate_subscripts(candidates, 1) AS place, unnest(candidates) AS said, models
    FROM (
        SELECT
            cluster, lane, decision_offset, topic, logical_id, generation, round_index, attempt, kind, decided_at,
            from_json(candidates, '[{"node":"VARCHAR","model":"VARCHAR","version":"VARCHAR","sample":"BIGINT",
                "status":"VARCHAR","text":"VARCHAR","score":"DOUBLE","error":"VARCHAR","tries":"BIGINT",
                "latency_s":"DOUBLE","tokens_in":"BIGINT","tokens_out":"BIGINT","cost":"DOUBLE"}]') AS candidates
        FROM stored.rounds WHERE candidates <> '[]'
    ) rounds
    LEFT JOIN (
        SELECT cluster, lane, decision_offset,
            from_json(provenance -> '$.models', '[{"gave_it":"BOOLEAN"}]') AS models
        FROM (FROM stored.records UNION ALL FROM gave_way) WHERE provenance IS NOT NULL
    ) USING (cluster, lane, decision_offset)
)
"""

_NODES = """
CREATE OR REPLACE VIEW nodes AS
SELECT
    topic, node, model,
    count(*) FILTER (tries > 0) AS asked,
    count(*) FILTER (tries = 0) AS not_asked,
    count(*) FILTER (status = 'ok') AS answered,
    count(*) FILTER (status = 'abstained') AS abstained,
    count(*) FILTER (status = 'failed' AND tries > 0) AS failed,
    avg(gave_it::INT) AS gave_the_answer,
    avg(latency_s) FILTER (status = 'ok') AS latency_s,
    sum(tokens)::BIGINT AS tokens,
    sum(cost) AS cost,
    max(decided_at) AS last_asked
FROM answers GROUP BY ALL
"""

_AGREEMENT = """
CREATE OR REPLACE VIEW agreement AS
WITH given AS (
    SELECT coalesce(cluster, '') AS cluster, lane, decision_offset, topic, model || ' on ' || node AS model,
        any_value(text) AS text, bool_or(gave_it) AS gave_it
    FROM answers WHERE status = 'ok' AND kind = 'converged' GROUP BY ALL
)
SELECT
    topic, a.model AS one_model, b.model AS other_model,
    count(*) AS together,
    count(*) FILTER (a.gave_it AND b.gave_it OR NOT a.gave_it AND NOT b.gave_it AND a.text = b.text) AS agreed,
    count(*) FILTER (a.gave_it AND b.gave_it OR NOT a.gave_it AND NOT b.gave_it AND a.text = b.text) / count(*) AS share
FROM given a JOIN given b USING (cluster, lane, decision_offset, topic) WHERE a.model < b.model GROUP BY ALL
"""

_COSTS = """
CREATE OR REPLACE VIEW costs AS
SELECT
    date_trunc('day', decided_at) AS day, topic,
    count(*) AS rounds,
    count(*) FILTER (kind = 'converged') AS records,
    count(*) FILTER (kind = 'dead') AS dead_letters,
    sum(calls)::BIGINT AS calls,
    sum(tokens)::BIGINT AS tokens,
    sum(cost) AS cost,
    sum(cost) / nullif(count(*) FILTER (kind = 'converged'), 0) AS cost_a_record
FROM outcomes GROUP BY ALL
"""

_SOURCES = """
CREATE OR REPLACE VIEW sources AS
SELECT topic, logical_id, source[1] AS source_topic, source[2] AS source_id
FROM (
    SELECT topic, logical_id, unnest(from_json(sources, '[["VARCHAR"]]')) AS source
    FROM stored.records WHERE sources IS NOT NULL
)
"""

# Success of what was made of a record speaks for it: Laplace's rule of succession, with one success and no failure
# to begin with, so that a record without descendants loses nothing. Of one that died and was sent again, its last life
# counts.
_WEIGHTS = """
CREATE OR REPLACE VIEW weights AS
WITH RECURSIVE came(topic, logical_id, child_topic, child_id, depth) AS (
    SELECT parent_topic, parent_id, topic, logical_id, 1 FROM stored.branches
    UNION
    SELECT source_topic, source_id, topic, logical_id, 1 FROM sources
    UNION
    SELECT came.topic, came.logical_id, branches.topic, branches.logical_id, came.depth + 1
    FROM came JOIN stored.branches ON parent_topic = child_topic AND parent_id = child_id WHERE came.depth < 100
),
ended AS (
    SELECT topic, logical_id, generation, NOT forced AS good FROM stored.records
    UNION ALL SELECT topic, logical_id, generation, false FROM stored.dead_letters WHERE reason <> 'id_conflict'
),
lived AS (
    SELECT came.topic, came.logical_id, child_topic, child_id, arg_max(good, (generation, good)) AS good
    FROM came JOIN ended ON ended.topic = child_topic AND ended.logical_id = child_id GROUP BY ALL
),
descendants AS (
    SELECT topic, logical_id, count(*) FILTER (good) AS good, count(*) AS ended FROM lived GROUP BY ALL
)
SELECT
    topic, logical_id, confidence,
    CASE evidence WHEN 'verifier' THEN 1e0 WHEN 'cross-model' THEN 0.8 WHEN 'self' THEN 0.5 ELSE 0.25 END
        AS evidence_weight,
    coalesce(good, 0) AS descendants_good, coalesce(ended, 0) AS descendants_ended,
    confidence * evidence_weight * (1 + descendants_good) / (1 + descendants_ended)
        * CASE WHEN forced THEN 0.5 ELSE 1 END AS weight
FROM stored.records LEFT JOIN descendants USING (topic, logical_id)
"""

_CONFLICTS = """
CREATE OR REPLACE VIEW conflicts AS
WITH compared AS (
    SELECT r.topic, r.logical_id, r.is_kept, whole(r.answer) AS answer, {{
        {criteria}, 'cluster': r.cluster, 'lane': r.lane, 'decision_offset': r.decision_offset
    }} AS told
    FROM (
        SELECT *, true AS is_kept FROM stored.records SEMI JOIN gave_way USING (topic, logical_id)
        UNION ALL SELECT *, false FROM gave_way
    ) r JOIN stored.rounds d USING (cluster, lane, decision_offset)
)
SELECT topic, logical_id, kept.answer AS kept, lost.answer AS lost, kept.told AS of_kept, lost.told AS of_lost
FROM compared lost JOIN compared kept USING (topic, logical_id) WHERE kept.is_kept AND NOT lost.is_kept
"""

_RUN = """
CREATE OR REPLACE MACRO run(name) AS TABLE
SELECT * FROM read_parquet(getvariable('aureon_lake') || '/runs/' || name || '/part-*.parquet')
"""

# All that came of a task has the task's id with `:branch-<n>` behind it, so the rows of a family are found by their ids
# alone, and those stand together in files that maintenance has sorted.
_FAMILY = """(
    SELECT * FROM {table} WHERE logical_id = {root}
    UNION ALL
    SELECT * FROM {table} WHERE logical_id >= {root} || ':branch-' AND logical_id < {root} || ':branch.'
)"""
_ROOT = r"regexp_replace(id, '(:branch-[0-9]+)+$', '')"

# `UNION` drops what was reached before at the same depth, and the depth is limited: a cycle ends.
_LINEAGE = """
CREATE OR REPLACE MACRO lineage(id, max_depth := 100) AS TABLE
WITH RECURSIVE
family_records AS MATERIALIZED (
    SELECT topic, logical_id, generation, answer, score, parent_topic, parent_id FROM {records}
),
family_rounds AS MATERIALIZED (SELECT topic, logical_id, generation, kind FROM {rounds}),
family_dead AS MATERIALIZED (SELECT topic, logical_id, generation, reason FROM {dead_letters}),
edges AS MATERIALIZED (
    SELECT topic, logical_id, parent_topic, parent_id FROM {branches}
    UNION
    SELECT topic, logical_id, parent_topic, parent_id FROM family_records WHERE parent_id IS NOT NULL
),
starts AS MATERIALIZED (
    SELECT topic, logical_id FROM family_rounds WHERE logical_id = id
    UNION SELECT topic, logical_id FROM family_records WHERE logical_id = id
    UNION SELECT topic, logical_id FROM family_dead WHERE logical_id = id
    UNION SELECT topic, logical_id FROM edges WHERE logical_id = id
    UNION SELECT parent_topic, parent_id FROM edges WHERE parent_id = id
),
up(depth, topic, logical_id) AS (
    SELECT 0, topic, logical_id FROM starts
    UNION
    SELECT depth + 1, parent_topic, parent_id
    FROM up JOIN edges USING (topic, logical_id) WHERE depth < max_depth
),
down(depth, topic, logical_id) AS (
    SELECT 0, topic, logical_id FROM starts
    UNION
    SELECT depth + 1, edges.topic, edges.logical_id
    FROM down JOIN edges ON parent_topic = down.topic AND parent_id = down.logical_id WHERE depth < max_depth
),
reached AS MATERIALIZED (
    SELECT CASE WHEN min(depth) = 0 THEN 'self' ELSE 'up' END AS direction, min(depth) AS depth, topic, logical_id
    FROM up GROUP BY topic, logical_id
    UNION ALL
    SELECT 'down', min(depth), topic, logical_id
    FROM down GROUP BY topic, logical_id HAVING min(depth) > 0
),
-- a message whose id another one has is not what the id ended with
ended AS MATERIALIZED (
    SELECT topic, logical_id, max(generation) AS generation FROM family_dead WHERE reason <> 'id_conflict' GROUP BY ALL
),
cancelled AS MATERIALIZED (
    SELECT topic, logical_id, max(generation) AS generation FROM family_rounds WHERE kind = 'cancelled' GROUP BY ALL
),
begun AS MATERIALIZED (SELECT topic, logical_id, max(generation) AS generation FROM family_rounds GROUP BY ALL),
parents AS (
    SELECT topic, logical_id, parent_topic, parent_id
    FROM edges SEMI JOIN reached USING (topic, logical_id)
)
SELECT
    direction, depth, topic, logical_id, parents.parent_topic, parents.parent_id,
    CASE
        WHEN family_records.generation >= coalesce(ended.generation, -1) THEN '{status.CONVERGED}'
        WHEN cancelled.generation >= coalesce(begun.generation, -1) THEN '{status.CANCELLED}'
        WHEN ended.generation >= coalesce(begun.generation, -1) THEN '{status.DEAD}'
        ELSE '{status.PENDING}'
    END AS status,
    answer, score
FROM reached
LEFT JOIN parents USING (topic, logical_id)
LEFT JOIN family_records USING (topic, logical_id)
LEFT JOIN ended USING (topic, logical_id)
LEFT JOIN cancelled USING (topic, logical_id)
LEFT JOIN begun USING (topic, logical_id)
ORDER BY CASE direction WHEN 'up' THEN -depth ELSE depth END, topic, logical_id
"""

VIEWS = (
    _ONE,
    _OUTCOMES,
    _GAVE_WAY,
    _ANSWERS,
    _NODES,
    _AGREEMENT,
    _COSTS,
    _SOURCES,
    _WEIGHTS,
    _CONFLICTS.format(criteria=", ".join(f"'{name}': {told}" for name, told in CRITERIA.items())),
    _RUN,
    _LINEAGE.format(status=TaskStatus, **{table: _FAMILY.format(table=table, root=_ROOT) for table in TABLES}),
)
"""In an order in which they can be made."""
