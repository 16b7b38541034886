
-- known_tables: the tables of the run graph, by their names.
--
-- Nothing else in the extension names them.  Other tables are attached with
-- arguments that say what these rows say.

INSERT INTO run_ops.known_routing VALUES
    ('TaskRun',                  'shape',  'id',             'TaskRun',                  '{}', '{}', 'friendlyId'),
    ('BatchTaskRun',             'shape',  'id',             'BatchTaskRun',             '{}', '{}', 'friendlyId'),
    ('BatchTaskRunItem',         'anchor', 'batchTaskRunId', 'BatchTaskRunItem',         '{}', '{}', NULL),
    ('BatchTaskRunError',        'anchor', 'batchTaskRunId', 'BatchTaskRunError',        '{}', '{}', NULL),
    ('TaskRunAttempt',           'anchor', 'taskRunId',      'TaskRunAttempt',           '{}', '{}', NULL),
    ('TaskRunExecutionSnapshot', 'anchor', 'runId',          'TaskRunExecutionSnapshot', '{}', '{}', NULL),
    ('TaskRunDependency',        'anchor', 'taskRunId',      'TaskRunDependency',        '{}', '{}', NULL),
    ('TaskRunWaitpoint',         'anchor', 'taskRunId',      'TaskRunWaitpoint',         '{}', '{}', NULL),
    ('Checkpoint',               'anchor', 'runId',          'Checkpoint',               '{}', '{}', NULL),
    ('CheckpointRestoreEvent',   'anchor', 'runId',          'CheckpointRestoreEvent',   '{}', '{}', NULL),
    ('TaskRunCheckpoint',        'store',  NULL,             'TaskRunCheckpoint',        '{}', '{}', NULL),
    ('TaskRunTag',               'store',  NULL,             'TaskRunTag',               '{}', '{}', NULL),
    ('Waitpoint',                'store',  NULL,             'Waitpoint',                '{}', '{}', NULL),
    ('WaitpointTag',             'store',  NULL,             'WaitpointTag',             '{}', '{}', NULL),
    ('_WaitpointRunConnections', 'anchor', 'A',              'WaitpointRunConnection',
      '{"A": "taskRunId", "B": "waitpointId"}', '{"id": "run_ops.generate_cuid()"}', NULL),
    ('_completedWaitpoints',     'store',  NULL,             'CompletedWaitpoint',
      '{"A": "snapshotId", "B": "waitpointId"}', '{"id": "run_ops.generate_cuid()"}', NULL);

-- usual names of the column with the id of a run or batch
INSERT INTO run_ops.known_anchor VALUES
    ('runId', 1), ('taskRunId', 2), ('batchTaskRunId', 3), ('run_id', 4), ('task_run_id', 5), ('batch_task_run_id', 6);

INSERT INTO run_ops.known_reference VALUES
    ('TaskRun',                  'batchId',         'BatchTaskRun'),
    ('TaskRun',                  'parentTaskRunId', 'TaskRun'),
    ('TaskRun',                  'rootTaskRunId',   'TaskRun'),
    ('TaskRunExecutionSnapshot', 'batchId',         'BatchTaskRun'),
    ('TaskRunWaitpoint',         'waitpointId',     'Waitpoint'),
    ('_WaitpointRunConnections', 'B',               'Waitpoint'),
    ('_completedWaitpoints',     'B',               'Waitpoint');
