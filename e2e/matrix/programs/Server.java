import com.sun.net.httpserver.HttpServer;
import java.lang.management.GarbageCollectorMXBean;
import java.lang.management.ManagementFactory;
import java.net.InetSocketAddress;
import java.nio.charset.StandardCharsets;
import java.security.MessageDigest;
import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.HexFormat;
import java.util.List;
import java.util.Timer;
import java.util.TimerTask;
import java.util.UUID;
import java.util.concurrent.Executors;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicLong;

/**
 * A web server that has its state and its timers in memory alone.
 *
 * POST /add     appends a value and says how many there are
 * POST /collect collects garbage
 * POST /compile runs a method that has not been run before, until it is compiled
 * GET /state    says everything
 */
public class Server {
    static final int EVERY = 100; // milliseconds between two ticks of each timer
    static final String NONCE = UUID.randomUUID().toString();
    static final List<String> values = new ArrayList<>();
    static final ArrayDeque<byte[]> garbage = new ArrayDeque<>();
    static final AtomicLong executorTicks = new AtomicLong();
    static final AtomicLong timerTicks = new AtomicLong();
    static final AtomicLong backwards = new AtomicLong(); // times that the monotonic clock went back
    static long lastTick = System.nanoTime();

    static synchronized String add() {
        values.add("value-" + (values.size() + 1));
        // The collector always has something to do, and something to keep.
        garbage.add(new byte[64 << 10]);
        if (garbage.size() > 100) {
            garbage.remove();
        }
        return "{\"numbers\": " + numbers() + "}";
    }

    static synchronized String numbers() {
        return "[" + values.size() + ", " + executorTicks + ", " + timerTicks + "]";
    }

    static synchronized String describe() throws Exception {
        byte[] digest = MessageDigest.getInstance("SHA-256").digest(String.join("\n", values).getBytes(StandardCharsets.UTF_8));
        return String.format("{\"nonce\": \"%s\", \"numbers\": %s, \"digest\": \"%s\", \"backwards\": %d, \"threads\": %d, \"collections\": %d, \"compiled\": %d}",
            NONCE, numbers(), HexFormat.of().formatHex(digest), backwards.get(), Thread.activeCount(), collections(),
            ManagementFactory.getCompilationMXBean().getTotalCompilationTime());
    }

    static long collections() {
        long all = 0;
        for (GarbageCollectorMXBean bean : ManagementFactory.getGarbageCollectorMXBeans()) {
            all += bean.getCollectionCount();
        }
        return all;
    }

    /** The number of primes below two million, 148933, by a sieve that nothing has called before. */
    static int fresh() {
        boolean[] composite = new boolean[2_000_000];
        int primes = 0;
        for (int i = 2; i < composite.length; i++) {
            if (composite[i]) {
                continue;
            }
            primes++;
            for (long j = (long) i * i; j < composite.length; j += i) {
                composite[(int) j] = true;
            }
        }
        return primes;
    }

    static void tick() {
        long now = System.nanoTime();
        if (now < lastTick) {
            backwards.incrementAndGet();
        }
        lastTick = now;
        executorTicks.incrementAndGet();
    }

    interface Answer {
        String get() throws Exception;
    }

    static void serve(HttpServer server, String path, Answer answer) {
        server.createContext(path, exchange -> {
            byte[] body;
            int status = 200;
            try {
                body = answer.get().getBytes(StandardCharsets.UTF_8);
            } catch (Exception e) {
                status = 500;
                body = e.toString().getBytes(StandardCharsets.UTF_8);
            }
            exchange.getRequestBody().readAllBytes();
            exchange.sendResponseHeaders(status, body.length);
            exchange.getResponseBody().write(body);
            exchange.close();
        });
    }

    public static void main(String[] args) throws Exception {
        Executors.newScheduledThreadPool(2).scheduleWithFixedDelay(Server::tick, EVERY, EVERY, TimeUnit.MILLISECONDS);
        new Timer().schedule(new TimerTask() {
            public void run() {
                timerTicks.incrementAndGet();
            }
        }, EVERY, EVERY);
        HttpServer server = HttpServer.create(new InetSocketAddress(8080), 0);
        server.setExecutor(Executors.newFixedThreadPool(8));
        serve(server, "/add", Server::add);
        serve(server, "/state", Server::describe);
        serve(server, "/collect", () -> {
            System.gc();
            System.out.println("collected garbage " + collections() + " times");
            return describe();
        });
        serve(server, "/compile", () -> {
            if (fresh() != 148933) {
                throw new IllegalStateException("the primes below two million are not 148933");
            }
            return describe();
        });
        server.start();
    }
}
