/* A stand-in for NVIDIA's management library, as far as headway asks it: two GPUs, and one MIG instance of the second.
 *
 * Its values come from a file beside it, "<library>.state", read anew for each question, one per line:
 *
 *     init 0             what nvmlInit_v2 returns
 *     0.util 87          a value of device 0; 1 is the second GPU, 2 the instance
 *     0.power -15        the error 15 (GPU lost) in its place
 *     0.util hang        no return until the line is another one
 *
 * What is not in the file is not supported (error 3). A copy under another name is another library with values of its
 * own, so tests do not disturb each other.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { SUCCESS = 0, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6 };
enum { DEVICES = 3, INSTANCE = 2, PARENT = 1 };

typedef struct { int number; const char *uuid; const char *name; } Device;
typedef struct { unsigned int gpu, memory; } Rates;
typedef struct { unsigned int version; unsigned long long total, reserved, free, used; } Memory;

static Device devices[DEVICES] = {
    { 0, "GPU-00000000-0000-0000-0000-000000000000", "Fake H100" },
    { 1, "GPU-11111111-1111-1111-1111-111111111111", "Fake A100" },
    { 2, "MIG-22222222-2222-2222-2222-222222222222", "Fake A100 MIG 3g.20gb" },
};

/* The text after "key " in the state file; 0 when there is none. */
static int look_up(const char *key, char *text, size_t size) {
    Dl_info here;
    char path[4096], line[256];
    int found = 0;
    dladdr((void *)look_up, &here);
    snprintf(path, sizeof path, "%s.state", here.dli_fname);
    FILE *file = fopen(path, "r");
    if (!file) return 0;
    size_t length = strlen(key);
    while (fgets(line, sizeof line, file)) {
        if (strncmp(line, key, length) == 0 && line[length] == ' ') {
            line[strcspn(line, "\n")] = 0;
            snprintf(text, size, "%s", line + length + 1);
            found = 1;
        }
    }
    fclose(file);
    return found;
}

static int ask(const Device *device, const char *field, unsigned long long *value) {
    char key[64], text[64];
    snprintf(key, sizeof key, "%d.%s", device->number, field);
    do {
        if (!look_up(key, text, sizeof text)) return NOT_SUPPORTED;
    } while (strcmp(text, "hang") == 0 && usleep(10000) == 0);
    if (text[0] == '-') return atoi(text + 1);
    *value = strtoull(text, NULL, 10);
    return SUCCESS;
}

static int ask_small(const Device *device, const char *field, unsigned int *value) {
    unsigned long long wide = 0;
    int result = ask(device, field, &wide);
    *value = (unsigned int)wide;
    return result;
}

int nvmlInit_v2(void) {
    char text[64];
    return look_up("init", text, sizeof text) ? atoi(text) : SUCCESS;
}

int nvmlShutdown(void) { return SUCCESS; }

int nvmlSystemGetDriverVersion(char *version, unsigned int length) {
    snprintf(version, length, "570.00");
    return SUCCESS;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned int index, Device **device) {
    if (index >= INSTANCE) return INVALID_ARGUMENT;
    *device = &devices[index];
    return SUCCESS;
}

int nvmlDeviceGetHandleByUUID(const char *uuid, Device **device) {
    for (int number = 0; number < DEVICES; number++) {
        if (strcmp(devices[number].uuid, uuid) == 0) {
            *device = &devices[number];
            return SUCCESS;
        }
    }
    return NOT_FOUND;
}

int nvmlDeviceIsMigDeviceHandle(const Device *device, unsigned int *is) {
    *is = device->number == INSTANCE;
    return SUCCESS;
}

int nvmlDeviceGetDeviceHandleFromMigDeviceHandle(const Device *device, Device **parent) {
    if (device->number != INSTANCE) return INVALID_ARGUMENT;
    *parent = &devices[PARENT];
    return SUCCESS;
}

int nvmlDeviceGetName(const Device *device, char *name, unsigned int length) {
    snprintf(name, length, "%s", device->name);
    return SUCCESS;
}

int nvmlDeviceGetUtilizationRates(const Device *device, Rates *rates) {
    rates->memory = 0;
    return ask_small(device, "util", &rates->gpu);
}

int nvmlDeviceGetMemoryInfo_v2(const Device *device, Memory *memory) {
    /* The version is the size of the structure and its number; a library that knows another one refuses. */
    if (memory->version != (sizeof *memory | 2u << 24)) return INVALID_ARGUMENT;
    int result = ask(device, "used", &memory->used);
    return result ? result : ask(device, "total", &memory->total);
}

int nvmlDeviceGetPowerUsage(const Device *device, unsigned int *milliwatts) {
    return ask_small(device, "power", milliwatts);
}

int nvmlDeviceGetTemperature(const Device *device, unsigned int sensor, unsigned int *celsius) {
    return sensor ? INVALID_ARGUMENT : ask_small(device, "temp", celsius);
}

int nvmlDeviceGetClockInfo(const Device *device, unsigned int kind, unsigned int *megahertz) {
    /* 1 is NVML_CLOCK_SM. */
    return kind == 1 ? ask_small(device, "clock", megahertz) : INVALID_ARGUMENT;
}

int nvmlDeviceGetCurrentClocksThrottleReasons(const Device *device, unsigned long long *reasons) {
    return ask(device, "throttle", reasons);
}
