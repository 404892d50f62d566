/*
 * The workloads over librabbitmq, the C client, as a floor. Arguments: kind host port queue warmQueue warm count size
 * mandatory headers inFlight prefetch arrivals. Prints what it measured as JSON.
 *
 * As librabbitmq's own examples do it: one publish is one call, confirms are frames that are read, a delivery is an
 * envelope that is destroyed.
 *
 * The kind `source` is for other clients: it publishes `arrivals` messages in a second, each with the time.
 */
#include <amqp.h>
#include <amqp_framing.h>
#include <amqp_tcp_socket.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

static amqp_connection_state_t conn;
static struct timespec began;
static struct rusage usage;
static double seconds, cpu;

static void fail(const char *what) {
  fprintf(stderr, "librabbitmq: %s failed\n", what);
  exit(1);
}

static void check(const char *what, amqp_rpc_reply_t reply) {
  if (reply.reply_type != AMQP_RESPONSE_NORMAL) fail(what);
}

static double cpu_of(const struct rusage *u) {
  return (u->ru_utime.tv_sec + u->ru_stime.tv_sec) * 1e6 + u->ru_utime.tv_usec + u->ru_stime.tv_usec;
}

static double micros(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * 1e6 + now.tv_nsec / 1e3;
}

static void meter_start(void) {
  getrusage(RUSAGE_SELF, &usage);
  clock_gettime(CLOCK_MONOTONIC, &began);
}

static void meter_stop(void) {
  struct timespec now;
  struct rusage u;
  clock_gettime(CLOCK_MONOTONIC, &now);
  getrusage(RUSAGE_SELF, &u);
  seconds = (now.tv_sec - began.tv_sec) + (now.tv_nsec - began.tv_nsec) / 1e9;
  cpu = cpu_of(&u) - cpu_of(&usage);
}

/* The largest resident size in bytes; getrusage would count what the parent had when it forked. */
static long peak(void) {
  struct rusage u;
  char line[256];
  long kibibytes;
  FILE *status = fopen("/proc/self/status", "r");
  while (status != NULL && fgets(line, sizeof line, status) != NULL) {
    if (sscanf(line, "VmHWM: %ld kB", &kibibytes) == 1) {
      fclose(status);
      return kibibytes * 1024;
    }
  }
  if (status != NULL) fclose(status);
  getrusage(RUSAGE_SELF, &u);
  return u.ru_maxrss * 1024L;
}

static amqp_connection_state_t open_connection(const char *host, int port) {
  amqp_connection_state_t state = amqp_new_connection();
  amqp_socket_t *socket = amqp_tcp_socket_new(state);
  if (socket == NULL || amqp_socket_open(socket, host, port) != 0) fail("connect");
  check("login", amqp_login(state, "/", 2047, 131072, 0, AMQP_SASL_METHOD_PLAIN, "guest", "guest"));
  return state;
}

static void open_channel(amqp_channel_t channel) {
  amqp_channel_open(conn, channel);
  check("channel.open", amqp_get_rpc_reply(conn));
}

static amqp_basic_properties_t properties;
static amqp_table_entry_t entries[5];

static void set_header(int i, const char *key, const char *text, int32_t number) {
  entries[i].key = amqp_cstring_bytes(key);
  entries[i].value.kind = text ? AMQP_FIELD_KIND_UTF8 : AMQP_FIELD_KIND_I32;
  if (text) entries[i].value.value.bytes = amqp_cstring_bytes(text);
  else entries[i].value.value.i32 = number;
}

static void set_properties(int headers) {
  properties._flags = AMQP_BASIC_CONTENT_TYPE_FLAG | AMQP_BASIC_DELIVERY_MODE_FLAG;
  properties.content_type = amqp_cstring_bytes("application/octet-stream");
  properties.delivery_mode = 1;
  if (!headers) return;
  set_header(0, "x-tenant", "customer-4711", 0);
  set_header(1, "x-attempt", NULL, 1);
  set_header(2, "x-source", "orders.eu", 0);
  set_header(3, "x-version", NULL, 12);
  set_header(4, "traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", 0);
  properties._flags |= AMQP_BASIC_HEADERS_FLAG;
  properties.headers.num_entries = 5;
  properties.headers.entries = entries;
}

static amqp_bytes_t queue, body;
static int mandatory;
static uint64_t published, confirmed;

static void publish(void) {
  if (amqp_basic_publish(conn, 1, amqp_empty_bytes, queue, mandatory, 0, &properties, body) != AMQP_STATUS_OK) {
    fail("basic.publish");
  }
  published++;
}

static uint8_t *settled; /* by delivery tag */

/* Reads one acknowledgement, for one publish or for many; they come out of order. */
static void await_confirm(void) {
  static uint64_t lowest = 0; /* all up to here are settled */
  amqp_frame_t frame;
  amqp_maybe_release_buffers(conn);
  if (amqp_simple_wait_frame(conn, &frame) != AMQP_STATUS_OK) fail("waiting for a confirm");
  if (frame.frame_type != AMQP_FRAME_METHOD || frame.payload.method.id != AMQP_BASIC_ACK_METHOD) fail("a confirm");
  amqp_basic_ack_t *ack = frame.payload.method.decoded;
  uint64_t tag = ack->delivery_tag;
  if (tag > published) fail("a confirm");
  for (uint64_t i = ack->multiple ? lowest + 1 : tag; i <= tag; i++) {
    confirmed += !settled[i];
    settled[i] = 1;
  }
  if (ack->multiple && tag > lowest) lowest = tag;
}

static void run_publish(const char *kind, uint64_t count, uint64_t window) {
  uint64_t end = published + count;
  if (strcmp(kind, "publish") == 0) {
    while (published < end) publish();
    amqp_queue_declare(conn, 1, queue, 1, 0, 0, 0, amqp_empty_table);
    check("queue.declare", amqp_get_rpc_reply(conn));
    amqp_maybe_release_buffers(conn);
    return;
  }
  int batch = strcmp(kind, "batch") == 0;
  while (confirmed < end) {
    while (published < end && published - confirmed < window) publish();
    do await_confirm();
    while (batch && confirmed < published);
  }
}

static double *latencies;
static uint64_t measured;
static double arrivals; /* in a second */

/* Warm messages, then those that count: each begins with the microseconds of its publish. */
static void source(amqp_bytes_t warm_queue, uint64_t warm, uint64_t count) {
  amqp_bytes_t counted = queue;
  struct timespec next;
  clock_gettime(CLOCK_MONOTONIC, &next);
  queue = warm_queue;
  for (uint64_t i = 0; i < warm + count; i++) {
    if (i == warm) queue = counted;
    double now = micros();
    memcpy(body.bytes, &now, sizeof now);
    publish();
    next.tv_nsec += 1e9 / arrivals;
    if (next.tv_nsec >= 1000000000) {
      next.tv_nsec -= 1000000000;
      next.tv_sec++;
    }
    clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &next, NULL);
  }
}

static void consume(amqp_bytes_t from, uint64_t count, int prefetch, int headers, size_t size) {
  meter_start();
  amqp_basic_consume(conn, 1, from, amqp_empty_bytes, 0, prefetch == 0, 0, amqp_empty_table);
  check("basic.consume", amqp_get_rpc_reply(conn));
  measured = 0;
  for (uint64_t seen = 0; seen < count; seen++) {
    amqp_envelope_t envelope;
    amqp_maybe_release_buffers(conn);
    check("consuming", amqp_consume_message(conn, &envelope, NULL, 0));
    if (envelope.message.body.len != size) fail("the body");
    if (headers && envelope.message.properties.headers.num_entries != 5) fail("the headers");
    /* The first ones have waited for the consumer. */
    if (arrivals > 0 && seen >= count / 10) {
      double published;
      memcpy(&published, envelope.message.body.bytes, sizeof published);
      latencies[measured++] = micros() - published;
    }
    if (prefetch > 0 && amqp_basic_ack(conn, 1, envelope.delivery_tag, 0) != 0) fail("basic.ack");
    amqp_destroy_envelope(&envelope);
  }
  meter_stop();
}

static int by_value(const void *a, const void *b) {
  double d = *(const double *)a - *(const double *)b;
  return (d > 0) - (d < 0);
}

static void request(void) {
  amqp_envelope_t envelope;
  amqp_basic_properties_t p = properties;
  p._flags |= AMQP_BASIC_REPLY_TO_FLAG | AMQP_BASIC_CORRELATION_ID_FLAG;
  p.reply_to = amqp_cstring_bytes("amq.rabbitmq.reply-to");
  p.correlation_id = amqp_cstring_bytes("1");
  amqp_basic_publish(conn, 1, amqp_empty_bytes, queue, 0, 0, &p, body);
  amqp_maybe_release_buffers(conn);
  check("the reply", amqp_consume_message(conn, &envelope, NULL, 0));
  amqp_destroy_envelope(&envelope);
}

int main(int argc, char **argv) {
  if (argc != 14) fail("the command line");
  const char *kind = argv[1], *host = argv[2];
  int port = atoi(argv[3]);
  uint64_t warm = atoll(argv[6]), count = atoll(argv[7]), window = atoll(argv[11]);
  int headers = atoi(argv[10]), prefetch = atoi(argv[12]);
  queue = amqp_cstring_bytes(argv[4]);
  body = amqp_bytes_malloc(atoll(argv[8]));
  memset(body.bytes, 'a', body.len);
  mandatory = atoi(argv[9]);
  arrivals = atof(argv[13]);
  set_properties(headers);

  latencies = calloc(count > warm ? count : warm, sizeof(double));
  if (strcmp(kind, "connect") == 0) {
    for (uint64_t i = 0; i < warm; i++) {
      amqp_connection_state_t one = open_connection(host, port);
      amqp_connection_close(one, AMQP_REPLY_SUCCESS);
      amqp_destroy_connection(one);
    }
    meter_start();
    for (uint64_t i = 0; i < count; i++) {
      double start = micros();
      open_connection(host, port);
      latencies[measured++] = micros() - start;
    }
    meter_stop();
  } else {
    conn = open_connection(host, port);
    if (strcmp(kind, "channels") == 0) {
      for (uint64_t i = 1; i <= warm; i++) open_channel(i);
      meter_start();
      for (uint64_t i = 1; i <= count; i++) open_channel(warm + i);
      meter_stop();
    } else {
      open_channel(1);
      if (strcmp(kind, "source") == 0) {
        source(amqp_cstring_bytes(argv[5]), warm, count);
      } else if (strcmp(kind, "consume") == 0) {
        if (prefetch > 0) amqp_basic_qos(conn, 1, 0, prefetch, 0);
        consume(amqp_cstring_bytes(argv[5]), warm, prefetch, headers, body.len);
        consume(queue, count, prefetch, headers, body.len);
      } else if (strcmp(kind, "request") == 0) {
        amqp_basic_consume(conn, 1, amqp_cstring_bytes("amq.rabbitmq.reply-to"), amqp_empty_bytes, 0, 1, 0,
                           amqp_empty_table);
        check("basic.consume", amqp_get_rpc_reply(conn));
        for (uint64_t i = 0; i < warm; i++) request();
        meter_start();
        for (uint64_t i = 0; i < count; i++) {
          double start = micros();
          request();
          latencies[measured++] = micros() - start;
        }
        meter_stop();
      } else {
        settled = calloc(warm + count + 1, 1);
        if (strcmp(kind, "publish") != 0) {
          amqp_confirm_select(conn, 1);
          check("confirm.select", amqp_get_rpc_reply(conn));
        }
        if (warm > 0) run_publish(kind, warm, window);
        meter_start();
        run_publish(kind, count, window);
        meter_stop();
      }
    }
  }
  printf("{\"seconds\":%.6f,\"cpu\":%.0f,\"peak\":%ld,\"extra\":{", seconds, cpu, peak());
  if (measured > 0) {
    qsort(latencies, measured, sizeof(double), by_value);
    printf("\"p50\":%.1f,\"p99\":%.1f", latencies[measured / 2], latencies[measured * 99 / 100]);
  }
  printf("}}\n");
  return 0;
}
