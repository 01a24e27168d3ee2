/* Loss curves as text and as SVG. The vertical axis is logarithmic, since loss falls fast and then slowly. */
#include "curve.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { WIDTH = 880, HEIGHT = 460, LEFT = 64, RIGHT = 24, TOP = 48, BOTTOM = 48, POINTS = 400 };

static const char *const colors[] = {"#1b6ca8", "#d1495b", "#2e8b57", "#edae49", "#6a4c93"};

/* The range of values that is drawn. */
struct frame {
    double low, high; /* of the loss */
    size_t steps;
};

int curve_write_text(const struct curve *curve, const char *path)
{
    FILE *file = fopen(path, "w");
    if (!file)
        return -1;
    for (size_t i = 0; i < curve->steps; i++)
        fprintf(file, "%.17g\n", curve->loss[i]);
    return fclose(file);
}

int curve_read_text(struct curve *curve, const char *path)
{
    size_t room = 0;
    double value;
    int got;
    FILE *file = fopen(path, "r");
    if (!file)
        return -1;
    curve->loss = NULL;
    curve->steps = 0;
    while ((got = fscanf(file, "%lf", &value)) == 1) {
        if (curve->steps == room) {
            room = room ? 2 * room : 1024;
            double *loss = realloc(curve->loss, room * sizeof(double));
            if (!loss)
                break;
            curve->loss = loss;
        }
        curve->loss[curve->steps++] = value;
    }
    fclose(file);
    if (got == EOF && curve->steps > 0)
        return 0;
    free(curve->loss);
    curve->loss = NULL;
    errno = EINVAL;
    return -1;
}

/* Mean of the losses around step `at`. */
static double smoothed(const struct curve *curve, size_t at)
{
    size_t reach = curve->steps / 200;
    size_t from = at > reach ? at - reach : 0;
    size_t to = at + reach < curve->steps ? at + reach : curve->steps - 1;
    double sum = 0.0;
    for (size_t i = from; i <= to; i++)
        sum += curve->loss[i];
    return sum / (double)(to - from + 1);
}

static struct frame frame_of(const struct curve *curves, size_t count)
{
    struct frame frame = {.low = INFINITY, .high = 0.0};
    for (size_t i = 0; i < count; i++) {
        frame.steps = curves[i].steps > frame.steps ? curves[i].steps : frame.steps;
        for (size_t k = 0; k < curves[i].steps; k++) {
            double loss = smoothed(&curves[i], k);
            frame.low = loss < frame.low && loss > 0.0 ? loss : frame.low;
            frame.high = loss > frame.high ? loss : frame.high;
        }
    }
    if (!isfinite(frame.low) || !isfinite(frame.high) || frame.high <= frame.low)
        frame = (struct frame){0.1, 10.0, frame.steps};
    return frame;
}

static double x_of(const struct frame *frame, size_t step)
{
    return LEFT + (double)(WIDTH - LEFT - RIGHT) * (double)step / (double)(frame->steps > 1 ? frame->steps - 1 : 1);
}

static double y_of(const struct frame *frame, double loss)
{
    double height = log(frame->high / frame->low);
    return TOP + (double)(HEIGHT - TOP - BOTTOM) * log(frame->high / loss) / height;
}

static void draw_axes(FILE *file, const struct frame *frame)
{
    static const double ticks[] = {0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0};
    for (size_t i = 0; i < sizeof(ticks) / sizeof(ticks[0]); i++) {
        if (ticks[i] < frame->low || ticks[i] > frame->high)
            continue;
        double y = y_of(frame, ticks[i]);
        fprintf(file, "<line x1='%d' x2='%d' y1='%.1f' y2='%.1f' stroke='#ddd'/>", LEFT, WIDTH - RIGHT, y, y);
        fprintf(file, "<text x='%d' y='%.1f' text-anchor='end'>%g</text>\n", LEFT - 8, y + 4, ticks[i]);
    }
    for (int i = 0; i <= 4; i++) {
        size_t step = frame->steps * (size_t)i / 4;
        double x = x_of(frame, step);
        fprintf(file, "<text x='%.1f' y='%d' text-anchor='middle'>%zu</text>\n", x, HEIGHT - BOTTOM + 20, step);
    }
    fprintf(file, "<text x='%d' y='%d' text-anchor='middle'>step</text>\n", WIDTH / 2, HEIGHT - 8);
    fprintf(file, "<text x='16' y='%d' transform='rotate(-90 16 %d)' text-anchor='middle'>training loss</text>\n",
            HEIGHT / 2, HEIGHT / 2);
}

static void draw_curve(FILE *file, const struct frame *frame, const struct curve *curve, size_t index)
{
    const char *color = colors[index % (sizeof(colors) / sizeof(colors[0]))];
    size_t stride = curve->steps / POINTS + 1;
    fprintf(file, "<polyline fill='none' stroke='%s' stroke-width='%.1f' points='", color,
            index == 0 ? 4.5 : 1.6); /* a first curve stays visible under others that run the same way */
    for (size_t i = 0; i < curve->steps; i += stride)
        fprintf(file, "%.1f,%.1f ", x_of(frame, i), y_of(frame, fmax(smoothed(curve, i), frame->low)));
    fprintf(file, "'/>\n<text x='%d' y='%zu' text-anchor='end' fill='%s'>%s</text>\n", WIDTH - RIGHT - 8,
            (size_t)TOP + 16 + 18 * index, color, curve->name);
}

int curve_write_svg(const struct curve *curves, size_t count, const char *title, const char *path)
{
    FILE *file = fopen(path, "w");
    if (!file)
        return -1;
    struct frame frame = frame_of(curves, count);
    fprintf(file,
            "<svg xmlns='http://www.w3.org/2000/svg' width='%d' height='%d' font-family='sans-serif' font-size='13'>\n"
            "<rect width='100%%' height='100%%' fill='white'/>\n"
            "<text x='%d' y='26' font-size='16'>%s</text>\n",
            WIDTH, HEIGHT, LEFT, title);
    draw_axes(file, &frame);
    for (size_t i = 0; i < count; i++)
        draw_curve(file, &frame, &curves[i], i);
    fprintf(file, "</svg>\n");
    return fclose(file);
}
