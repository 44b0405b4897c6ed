/* One row per launcher, the first whose rank variable is set counts. All that is read comes from
 * outside and is checked. */
#include "comm/environment.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"

enum { DEFAULT_PORT = 29500 }; /* torch's, which firewalls of clusters know */

typedef struct launcher {
    const char *name, *rank, *size, *local_rank;
    const char *nodes; /* a list of hosts, the first of which is rank 0's; or its one host */
    const char *job;   /* what tells this job from others: its token where none is given */
} launcher;

static const launcher launchers[] = {
    {"deepseek-run or torchrun", "RANK", "WORLD_SIZE", "LOCAL_RANK", NULL, "TORCHELASTIC_RUN_ID"},
    {"Open MPI", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK", NULL,
     "PMIX_NAMESPACE"},
    {"MPICH or another PMI", "PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", NULL, NULL},
    {"Slurm", "SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID", "SLURM_STEP_NODELIST",
     "SLURM_JOB_ID"},
    {"Kubernetes", "JOB_COMPLETION_INDEX", "WORLD_SIZE", NULL, NULL, NULL},
};

static ds_status read_integer(const char *name, long low, long high, int *out) {
    const char *text = getenv(name);
    if (!text || !*text)
        return ds_fail(DS_NOT_FOUND, "the variable %s is not set", name);
    char *end = NULL;
    const long value = strtol(text, &end, 10);
    if (*end || value < low || value > high)
        return ds_fail(DS_INVALID, "%s=%s: a whole number from %ld to %ld is due", name, text, low,
                       high);
    *out = (int)value;
    return DS_OK;
}

static bool is_set(const char *name) {
    const char *text = name ? getenv(name) : NULL;
    return text && *text;
}

/* The first host of a list as Slurm writes it: "node[03-07,9],other" is node03. */
static void first_host(const char *list, char *out, size_t size) {
    size_t n = 0;
    bool in_range = false;
    for (const char *p = list; *p && n + 1 < size; p++) {
        if (*p == '[') {
            in_range = true;
            continue;
        }
        if (*p == ',' || *p == ']' || (in_range && *p == '-') || isspace((unsigned char)*p))
            break;
        out[n++] = *p;
    }
    out[n] = '\0';
}

/* Where the store is, if nobody says so: rank 0's host, as far as it is known. */
static ds_status find_store(const launcher *l, ds_rank_environment *e) {
    char host[DS_ADDRESS - 8] = "127.0.0.1"; /* one machine, unless something tells of more */
    int port = DEFAULT_PORT;
    if (is_set("MASTER_ADDR"))
        snprintf(host, sizeof host, "%s", getenv("MASTER_ADDR"));
    else if (is_set(l->nodes))
        first_host(getenv(l->nodes), host, sizeof host);
    if (is_set("MASTER_PORT"))
        DS_TRY(read_integer("MASTER_PORT", 1, 65534, &port));
    else if (is_set("SLURM_JOB_ID")) /* jobs that share a machine need ports of their own */
        port = 20000 + (int)(strtoul(getenv("SLURM_JOB_ID"), NULL, 10) % 20000);
    const char *agent = getenv("TORCHELASTIC_USE_AGENT_STORE");
    if (agent && strcmp(agent, "True") == 0)
        port++; /* MASTER_PORT is torchrun's own */
    snprintf(e->store, sizeof e->store, "%s:%d", host, port);
    return DS_OK;
}

static const launcher *find_launcher(void) {
    for (size_t i = 0; i < sizeof launchers / sizeof *launchers; i++)
        if (is_set(launchers[i].rank) &&
            (is_set(launchers[i].size) || strcmp(launchers[i].rank, "RANK") == 0))
            return &launchers[i];
    return NULL;
}

ds_status ds_rank_environment_read(ds_rank_environment *e) {
    *e = (ds_rank_environment){.size = 1, .local_rank = -1};
    const launcher *l = find_launcher();
    if (!l)
        return DS_OK;
    e->started_by = l->name;
    DS_TRY(read_integer(l->rank, 0, 65534, &e->rank));
    if (read_integer(l->size, 1, 65535, &e->size) != DS_OK)
        return ds_fail_within(DS_INVALID, "%s is set, started by %s", l->rank, l->name);
    if (e->rank >= e->size)
        return ds_fail(DS_INVALID, "%s=%d, but %s=%d: ranks are counted from 0", l->rank, e->rank,
                       l->size, e->size);
    if (is_set(l->local_rank))
        DS_TRY(read_integer(l->local_rank, 0, 65534, &e->local_rank));
    const char *token = getenv("DS_STORE_TOKEN"), *job = l->job ? getenv(l->job) : NULL;
    snprintf(e->token, sizeof e->token, "%s", token ? token : job ? job : "");
    if (is_set("DS_STORE")) {
        snprintf(e->store, sizeof e->store, "%s", getenv("DS_STORE"));
        e->store_is_elsewhere = true;
        return DS_OK;
    }
    return find_store(l, e);
}
