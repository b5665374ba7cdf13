"""Every default number of `mgmt`, once. The unit is in the name; a setting of the same name overrides it.

Standard library only: the command line, the client library and the backends read this table too.
"""

from __future__ import annotations

# --- the protocol itself: the same on both sides, hence no setting ---
MAX_CONTROL_FRAME_BYTES = 1 << 20  # a control message, native or legacy; a command is a few hundred bytes
MAX_DEPTH = 32  # nesting of a body; deeper ones are hostile, not useful
MAX_NAME_CHARS = 256  # a model, unit or client name; longer than every published model name
MAX_KEY_CHARS = 128  # an idempotency key; a UUID has 36

# --- frames and queues (config: `limits`) ---
MAX_RELAY_FRAME_BYTES = 64 << 20  # an opaque frame between client and backend: an image, a batch of tokens
MAX_SESSIONS = 1024  # clients that said hello and did not leave
MAX_SESSION_REQUESTS = 1024  # unanswered requests of one session; the next one is answered `busy`
MAX_REQUESTS = 16_384  # unanswered requests of all sessions together
MAX_EVENT_HISTORY = 4096  # past events kept for a subscriber that comes back
MAX_SUBSCRIBER_QUEUE = 1024  # events waiting for one slow subscriber before it is sent a new snapshot
MAX_RELAY_QUEUE = 1024  # relayed requests in flight at one replica; the next one is answered `busy`
MAX_SCHEDULE_CPUS = 4096  # of all nodes together; a description of each must fit into one message
MAX_REBALANCE_MOVES = 1000  # of one proposal; the next one goes on
SCHEDULE_PAGE_BYTES = 768 << 10  # of one answer about a schedule; the rest is asked for with an offset
MAX_UNITS = 256  # backend processes of one daemon

# --- times (config: `timing`) ---
HEARTBEAT_S = 5.0  # both ways on a native session; three fit into the session timeout
SESSION_TIMEOUT_S = 15.0  # silence after which a session is ended and its leases closed
REQUEST_TIMEOUT_S = 30.0  # deadline of a request that names none
IDEMPOTENCY_KEEP_S = 300.0  # how long the answer to an idempotency key is remembered
LEGACY_LOAD_ANSWER_S = 8.0  # a legacy load still starting is answered `starting`: its callers wait 10 s

# --- nodes (config: `timing`) ---
NODE_HEARTBEAT_S = 1.0  # both ways between the daemon and each agent
BEAT_SLOTS = 8  # of a heartbeat period: agents of the same slot are heard in one turn of the loop
NODE_LOST_S = 3.0  # silence after which a node is lost and its workloads are treated by their policy
MISSED_BEATS = (
    2.5  # heartbeat periods of silence that make a node suspect: two were missed, none is just late
)
# After the time that a unit of a lost node has to end, for its shim to be scheduled and to kill what is left.
NODE_FENCE_S = 1.0
JOIN_SAY_S = 1.0  # after which an agent says that it waits for a daemon
NODE_HELLO_S = 5.0  # for the answer to an agent's hello, slow links included; then it connects anew
MAX_NODE_TAGS = 64  # tags or labels of one node
NODE_RECONNECT_MIN_S = 0.1  # first pause before a broken link is tried again; doubles with each try
# The doubling stops here: with the time for an answer below and the jitter, a link that heals is used within a
# second, and a thousand agents that try that often cost less than their heartbeats.
NODE_RECONNECT_MAX_S = 0.35
NODE_CONNECT_TIMEOUT_S = 1.5  # for the first answer of the other machine's kernel, when the way is not known
NODE_CONNECT_SHORT_S = 0.4  # ... when it took a quarter of that at most, while the daemon was heard
NODE_REFUSED_MAX_S = 10.0  # longest pause of an agent that was refused; it starts like that of a broken link
CLOCK_SAMPLE_S = 0.02  # between the first heartbeats of a session
CLOCK_SAMPLES = 8  # heartbeats of which the one with the shortest way tells the clocks' difference

# --- suites of tasks ---
MAX_TASK_ATTEMPTS = 10  # losses of a worker or node after which a task is Failed, wherever they happened
MAX_TASK_HISTORY = 16  # deaths that are remembered of one task on one node

# --- one backend (config: `model_backends.*`) ---
READY_TIMEOUT_S = 60.0  # from spawn to ready, else the start failed
GRACE_S = 10.0  # from the stop signal to SIGKILL of the whole tree
MAX_LOG_BYTES = 10 << 20  # a captured output file is rotated at this size
MAX_OLD_LOGS = 5  # rotated files kept beside the current one
MAX_REPLICAS = 64  # processes of one model
# Files and folders are named after a unit, and a file's name has at most 255 bytes: this leaves room for the
# number of a replica or of a start, and for the time and inode of a rotated log.
MAX_UNIT_NAME_CHARS = 128

# --- restart of a backend (config: `model_backends.*.restart`) ---
RESTART_DELAY_S = 1.0  # before the first restart
MAX_RESTART_DELAY_S = 60.0  # the growing delay stops growing here
RESTART_FACTOR = 2.0  # growth from one delay to the next
RESTART_JITTER = 0.1  # share of the delay drawn at random, so that replicas do not restart in step
RESTART_LIMIT = 5  # restarts within the window before the unit is FATAL
RESTART_WINDOW_S = 300.0  # the window of the limit; a unit that ran this long starts afresh

# --- the configuration file itself ---
MAX_CONFIG_BYTES = 1 << 20  # a larger file is not a configuration
MAX_CONFIG_PROBLEMS = 100  # faults reported at once; the rest is counted
MAX_CPU = 4095  # highest CPU number accepted; more would only cost memory
MAX_IPC_PATH_BYTES = 107  # Linux `sun_path` less its closing NUL
MODEL_SOCKET_PREFIX = "symphony-model-"  # legacy clients look for this name followed by 8 hex digits
MODEL_SOCKET_HEX_DIGITS = 8  # of randomness in the name of a backend's socket
BACKEND_SEARCH_PARENTS = 5  # folders above the working directory that are searched for a script

# --- the client library ---
CONNECT_TIMEOUT_S = 5.0  # for the daemon's welcome; also how long a lost daemon may take to come back
ANSWER_MARGIN_S = 0.25  # the daemon's own `expired` says more than ours, so it gets this head start
CLIENT_QUEUE_MESSAGES = (
    4096  # high-water marks of a client's sockets; four times the requests it may have open
)
CLIENT_LINGER_MS = 200  # at close, for what was sent last to leave the process
RECONNECT_MIN_MS = 10  # first pause before a broken connection is tried again
RECONNECT_MAX_MS = 1000  # the doubling pause stops here
RETRY_DELAY_S = 0.05  # before a model request is repeated; doubles with each repetition
MAX_RETRY_DELAY_S = 1.0  # the doubling stops here
ZERO_COPY_BYTES = 65_536  # a larger frame is sent without copying; below, the bookkeeping costs more

# --- the backend library ---
MAX_BACKEND_QUEUE = 1024  # requests accepted and not answered; the next one is answered `busy`
BACKEND_QUEUE_MESSAGES = 4096  # high-water marks of a backend's socket
BACKEND_LINGER_MS = 500  # at the end, for the last answers to leave the process
BACKEND_DRAIN_CAP = 128  # messages taken in one turn before finished answers are sent
ZMQ_HANDSHAKE_TIMEOUT_MS = 5000  # a connection that does not speak ZMTP by then is closed

# --- probes and hooks of a unit (config: `*.probes`, `*.hooks`) ---
PROBE_PERIOD_S = 10.0  # from one question to the next; the first comes at once
PROBE_TIMEOUT_S = 1.0  # an answer that takes longer is no answer
PROBE_FAILURES = 3  # bad answers in a row before something is done about them
HOOK_TIMEOUT_S = 30.0  # a hook that runs longer is killed

# --- workloads of periodic tasks ---
MIN_PERIOD_US = 1_000  # a task with a shorter period belongs into hardware or a driver
MEASURED_TASKS = 500  # in one answer with figures of tasks
RECORDED_TASKS = 24  # ... that has their last jobs, too
STATISTICS_S = 5.0  # for a node to say what it has measured; else it is left out
STAGE_S = 10.0  # for all nodes to prepare for a workload; else it is refused (config: `timing`)
TASK_LEAD_S = 0.1  # from the word to the common start of processes of this machine
TASK_LEAD_NODES_S = 0.5  # ... of several: all must have heard it by then
TASK_GRACE_S = 2.0  # from the stop signal to SIGKILL, of a task that is a process
MAX_PERIOD_US = 10_000_000  # ten seconds; what is slower needs no real-time schedule
MAX_HYPERPERIOD_US = 3_600_000_000  # one hour; a longer one is a mistake in the periods
MAX_WORKLOAD_TASKS = 100_000  # of one workload; ten times what one document was ever seen to hold
MAX_WORKLOAD_NODES = 4096  # named in the documents of one workload
MAX_TASK_MEMORY_MB = 1 << 30  # a pebibyte; more is a mistake in the unit
MAX_CANDIDATE_ROWS = 4000  # in one request
MAX_LISTED_CANDIDATES = 2000  # in one answer
CANDIDATE_LABEL = "candidate:"  # begins a label that only the daemon gives
MAX_CANDIDATES_BYTES = 1 << 30  # of one file of candidates and runs: some 2 million runs
MAX_WORKLOAD_BYTES = 32 << 20  # of one file of documents
MAX_WORKLOAD_PROBLEMS = 20  # faults reported at once; the rest is counted
MAX_TIMELINE_JOBS = 20_000  # that are drawn; what comes later is said to be left out

LOCAL_NODE = "local"  # how this machine is called among its nodes

# --- task suites ---
MAX_LABELS = 64  # of one task or suite
MAX_VARIABLES = 1024  # of one task or hook
MAX_ARGUMENTS = 4096  # of one command
MAX_WORKERS = 256  # of a suite on one node
MAX_SUBMITTED_TASKS = 10_000  # in one request; more come in several
MAX_TASK_S = 31_536_000.0  # a year
TASK_PREFETCH = 64  # tasks fetched ahead for each worker at most; no more than it does in a moment
TASK_OUTPUT_BYTES = 64 << 20  # of a task with terminal_output; more is cut off
TASK_CANCEL_GRACE_S = 10.0  # from SIGTERM to SIGKILL of a task that is cancelled or too late
PROVISION_S, MAX_PROVISION_S = 600.0, 3600.0  # of a provision hook
CLEANUP_S, MAX_CLEANUP_S = 120.0, 600.0  # of a cleanup hook
SUITE_AUTO_CLOSE_S = 180.0  # without a new task, an open suite is closed
SUITE_LINGER_S = 5.0  # how long a node stays with a suite that is complete, when no other wants it
CREW_STOP_S = 30.0  # for workers to finish what they run when a suite ends
CREW_PARK_S = 5.0  # an exchange that found no work is answered within this
CREW_ANSWER_S = 10.0  # one that was not answered within this is sent again
CREW_FIND_S = 3.0  # after a restart, for workers to come back before what they had is given up

# --- files of groups and tasks (config: `files`) ---
MAX_BLOB_BYTES = 1 << 42  # of one file; quotas of groups end earlier
MAX_BLOB_KEY_CHARS = 1024  # of an attachment's name
BLOB_CHUNK_BYTES = 256 << 10  # of one message: heartbeats beside it are not held up on slow links
BLOB_WINDOW = 4  # chunks of one transfer under way
BLOB_UNWRITTEN_BYTES = 64 << 20  # of all uploads in memory; more is answered `busy`
BLOB_COLLECT_S = 300.0  # between two looks for content that nothing names any more
BLOB_GRACE_S = 3600.0  # how long that is kept, and a broken upload
BLOB_CACHE_BYTES = 4 << 30  # of content that an agent keeps for the next task
FETCH_S = 1800.0  # for all files of a task or hook
FETCH_FILE_S = 120.0  # ... for each
UPLOAD_S = 1800.0  # for what a task leaves

# --- users, groups and tokens ---
MAX_ACCOUNT_CHARS = 64  # of the name of a user, a group or a token
MAX_USERS = 10_000  # deleted ones included: their names stay taken
MAX_USER_TOKENS = 64  # of one user; expired ones go first
TOKEN_BYTES = 32  # of chance in a token
TOKEN_LIFETIME_S = 30 * 86_400.0  # of a token whose maker says nothing else
MAX_TOKEN_LIFETIME_S = 10 * 366 * 86_400.0  # ten years; longer is for ever
TOKEN_RENEW_S = 86_400.0  # left of an agent's or worker's token, or half of its life: it is renewed
TOKEN_USE_S = 60.0  # how exactly the last use of a token is written down
GROUP_QUOTA = 8  # groups that a user may create
STORAGE_QUOTA_BYTES = 16_000_000_000  # of one group
