#include "observe/progress.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/text.h"

static const double redraw_interval_s = 0.1;
enum { MIN_BAR = 10, MAX_BAR = 60, DEFAULT_COLUMNS = 80 };

struct ds_progress {
    int fd;
    int64_t log_interval;
    bool live, color;
    bool drawn; /* two lines of ours stand above the cursor */
    bool stale; /* the newest fields are not shown yet */
    bool any;   /* fields were given */
    double last_draw_s;
    int64_t last_line_step; /* of the last plain line */
    ds_progress_fields fields;
};

ds_progress *ds_progress_new(int fd, int64_t log_interval) {
    ds_progress *p = ds_calloc(1, sizeof *p);
    if (!p)
        return NULL;
    const char *term = getenv("TERM");
    const char *no_color = getenv("NO_COLOR");
    p->fd = fd;
    p->log_interval = log_interval > 0 ? log_interval : 1;
    p->live = isatty(fd) && (!term || strcmp(term, "dumb") != 0);
    p->color = p->live && !(no_color && *no_color);
    p->last_draw_s = -1;
    p->last_line_step = -1;
    return p;
}

bool ds_progress_is_live(const ds_progress *progress) {
    return progress->live;
}

/* Asking at each redraw follows a resized window without a SIGWINCH handler, which would not be the
 * library's to install. */
static int columns_of(int fd) {
    struct winsize size = {0};
    if (ioctl(fd, TIOCGWINSZ, &size) == 0 && size.ws_col > 0)
        return size.ws_col;
    return DEFAULT_COLUMNS;
}

static void emit(const ds_progress *p, ds_text *text) {
    static const char lost[] = "out of memory: a message cannot be shown\n";
    const char *data = text->poisoned ? lost : text->data;
    const size_t length = text->poisoned ? sizeof lost - 1 : text->length;
    /* A failed write is left alone: see ds_progress_update. */
    if (length > 0 && ds_fd_write(p->fd, data, length, "progress display") != DS_OK)
        text->poisoned = true;
    ds_text_clear(text);
}

/* "1,234,567" */
static void append_grouped(ds_text *out, int64_t number) {
    char digits[24];
    const int n = snprintf(digits, sizeof digits, "%" PRId64, number);
    for (int i = 0; i < n; i++) {
        ds_text_append(out, digits + i, 1);
        if ((n - i - 1) % 3 == 0 && i + 1 < n && digits[i] != '-')
            ds_text_append(out, ",", 1);
    }
}

static bool known(double value) {
    return isfinite(value) && value > 0;
}

static void append_flops(ds_text *out, const ds_progress_fields *f) {
    char number[32];
    /* FLOP/s go by tera and peta where counts say T and Q; giga where counts say B. */
    ds_format_count(number, sizeof number, f->flops_per_s);
    char *unit = number + strlen(number) - 1;
    *unit = *unit == 'B' ? 'G' : *unit == 'Q' ? 'P' : *unit;
    ds_text_printf(out, "%sFLOP/s", number);
    if (known(f->peak_flops_per_s))
        ds_text_printf(out, " (%.0f %% of peak)", 100 * f->flops_per_s / f->peak_flops_per_s);
}

/* The fields in the order in which they matter: a narrow window loses the last ones. */
static void append_field(ds_text *out, const ds_progress_fields *f, int which) {
    char number[32];
    switch (which) {
    case 0: ds_text_printf(out, "loss %.4f", f->loss); break;
    case 1:
        if (isfinite(f->validation_loss))
            ds_text_printf(out, "val %.4f", f->validation_loss);
        break;
    case 2: ds_text_printf(out, "lr %.2e", f->learning_rate); break;
    case 3: ds_text_printf(out, "grad %.2f", f->grad_norm); break;
    case 4:
        if (known(f->tokens_per_s))
            ds_text_printf(out, "%s tok/s",
                           ds_format_count(number, sizeof number, f->tokens_per_s));
        break;
    case 5:
        if (known(f->flops_per_s))
            append_flops(out, f);
        break;
    case 6:
        if (known(f->memory_bytes))
            ds_text_puts(out, ds_format_bytes(number, sizeof number, f->memory_bytes));
        break;
    case 7:
        if (known(f->loss_scale))
            ds_text_printf(out, "scale %g", f->loss_scale);
        break;
    case 8:
        if (f->skipped_steps > 0)
            ds_text_printf(out, "%" PRId64 " skipped", f->skipped_steps);
        break;
    default: break;
    }
}
enum { N_FIELDS = 9 };

/* All fields that fit in columns (ASCII only, so bytes are columns), two spaces apart. */
static void append_fields(ds_text *out, const ds_progress_fields *f, int columns) {
    int used = 0;
    for (int i = 0; i < N_FIELDS; i++) {
        ds_text field = {0};
        append_field(&field, f, i);
        const int width = (int)field.length + (used ? 2 : 0);
        if (field.length > 0 && used + width <= columns) {
            ds_text_puts(out, used ? "  " : "");
            ds_text_append(out, field.data, field.length);
            used += width;
        }
        ds_text_clear(&field);
    }
}

static double fraction_done(const ds_progress_fields *f) {
    const double fraction = f->steps > 0 ? (double)f->step / (double)f->steps : 0;
    return fraction < 0 ? 0 : fraction > 1 ? 1 : fraction;
}

static void append_bar(const ds_progress *p, ds_text *out, int width) {
    const int halves = (int)(fraction_done(&p->fields) * 2 * width);
    ds_text_puts(out, p->color ? "\x1b[36m" : "");
    for (int i = 0; i < width; i++) {
        if (i == halves / 2)
            ds_text_puts(out, p->color ? "\x1b[2m" : "");
        ds_text_puts(out, i < halves / 2 ? "━" : i == halves / 2 && halves % 2 ? "╸" : "─");
    }
    ds_text_puts(out, p->color ? "\x1b[0m" : "");
}

static void append_head(const ds_progress *p, ds_text *out, int columns) {
    const ds_progress_fields *f = &p->fields;
    char left[48] = "", duration[32];
    ds_text steps = {0};
    ds_text_puts(&steps, "step ");
    append_grouped(&steps, f->step);
    ds_text_puts(&steps, "/");
    append_grouped(&steps, f->steps);
    const bool done = f->step >= f->steps;
    const double seconds = done ? f->elapsed_s : f->seconds_left;
    if (isfinite(seconds) && seconds >= 0)
        snprintf(left, sizeof left, "  %s%s",
                 ds_format_duration(duration, sizeof duration, seconds), done ? "" : " left");
    const int bar = columns - (int)steps.length - (int)strlen(left) - 8;
    if ((int)steps.length <= columns)
        ds_text_append(out, steps.data ? steps.data : "", steps.length);
    if (bar >= MIN_BAR) {
        ds_text_puts(out, " ");
        append_bar(p, out, bar < MAX_BAR ? bar : MAX_BAR);
    }
    if (bar >= 0)
        ds_text_printf(out, " %3.0f %%%s", floor(100 * fraction_done(f)), left);
    out->poisoned |= steps.poisoned;
    ds_text_clear(&steps);
}

/* Both lines. Wrapping is off while they are written: a window that shrinks between the question
 * for its width and the writing must not push the lines apart. */
static void draw(ds_progress *p, ds_text *out) {
    const int columns = columns_of(p->fd) - 1;
    ds_text_puts(out, "\x1b[?7l");
    ds_text_puts(out, p->drawn ? "\x1b[2A\r" : "\r");
    append_head(p, out, columns);
    ds_text_puts(out, "\x1b[K\n\r");
    append_fields(out, &p->fields, columns);
    ds_text_puts(out, "\x1b[K\n\r\x1b[?7h");
    p->drawn = true;
    p->stale = false;
    p->last_draw_s = ds_clock_s();
}

static void plain_line(ds_progress *p) {
    const ds_progress_fields *f = &p->fields;
    char duration[32];
    ds_text out = {0};
    ds_text_printf(&out, "step %" PRId64 "/%" PRId64 "  ", f->step, f->steps);
    append_fields(&out, f, 1000);
    if (isfinite(f->seconds_left) && f->seconds_left > 0)
        ds_text_printf(&out, "  %s left",
                       ds_format_duration(duration, sizeof duration, f->seconds_left));
    ds_text_puts(&out, "\n");
    emit(p, &out);
    p->last_line_step = f->step;
    p->stale = false;
}

void ds_progress_update(ds_progress *p, const ds_progress_fields *fields) {
    const bool first = !p->any;
    p->fields = *fields;
    p->any = p->stale = true;
    if (!p->live) {
        if (first || fields->step % p->log_interval == 0 || fields->step == fields->steps)
            plain_line(p);
        return;
    }
    if (p->drawn && ds_clock_s() - p->last_draw_s < redraw_interval_s)
        return;
    ds_text out = {0};
    draw(p, &out);
    emit(p, &out);
}

void ds_progress_note(ds_progress *p, const char *fmt, ...) {
    char small[4096];
    va_list ap;
    va_start(ap, fmt);
    const int n = vsnprintf(small, sizeof small, fmt, ap);
    va_end(ap);
    char *big = NULL;
    if (n >= (int)sizeof small && (big = ds_malloc((size_t)n + 1))) {
        va_start(ap, fmt);
        vsnprintf(big, (size_t)n + 1, fmt, ap);
        va_end(ap);
    }
    ds_text out = {0};
    if (p->drawn)
        ds_text_puts(&out, "\x1b[2A\r\x1b[J");
    ds_text_puts(&out, big ? big : small);
    if (out.length > 0 && out.data[out.length - 1] != '\n')
        ds_text_puts(&out, "\n");
    p->drawn = false;
    if (p->live && p->any)
        draw(p, &out);
    emit(p, &out);
    free(big);
}

void ds_progress_free(ds_progress *p) {
    if (!p)
        return;
    if (p->live && p->stale) {
        ds_text out = {0};
        draw(p, &out);
        emit(p, &out);
    } else if (!p->live && p->any && p->last_line_step != p->fields.step) {
        plain_line(p);
    }
    free(p);
}
