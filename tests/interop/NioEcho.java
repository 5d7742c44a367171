import java.io.DataInputStream;
import java.net.InetSocketAddress;
import java.nio.ByteBuffer;
import java.nio.channels.SelectionKey;
import java.nio.channels.Selector;
import java.nio.channels.ServerSocketChannel;
import java.nio.channels.SocketChannel;
import java.util.Arrays;
import java.util.Random;
import java.util.concurrent.Callable;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.ArrayList;

/** An echo server by one selector, and clients that check what comes back. */
public class NioEcho {
    static void serve(InetSocketAddress at) throws Exception {
        Selector selector = Selector.open();
        ServerSocketChannel listener = ServerSocketChannel.open();
        listener.bind(at, 50);
        listener.configureBlocking(false);
        listener.register(selector, SelectionKey.OP_ACCEPT);
        while (true) {
            selector.select();
            for (SelectionKey key : selector.selectedKeys()) {
                if (key.isAcceptable()) {
                    SocketChannel c = listener.accept();
                    c.configureBlocking(false);
                    c.register(selector, SelectionKey.OP_READ, ByteBuffer.allocateDirect(65536));
                } else {
                    echo(key);
                }
            }
            selector.selectedKeys().clear();
        }
    }

    static void echo(SelectionKey key) throws Exception {
        SocketChannel c = (SocketChannel) key.channel();
        ByteBuffer data = (ByteBuffer) key.attachment();
        boolean ended = key.isReadable() && c.read(data) < 0;
        data.flip();
        int half = data.remaining() / 2;
        ByteBuffer first = data.slice(0, half), rest = data.slice(half, data.remaining() - half);
        long sent = c.write(new ByteBuffer[] {first, rest});
        data.position((int) sent);
        data.compact();
        if (ended && data.position() == 0) {
            c.close();
            return;
        }
        key.interestOps((data.hasRemaining() && !ended ? SelectionKey.OP_READ : 0)
                        | (data.position() != 0 ? SelectionKey.OP_WRITE : 0));
    }

    static void ask(InetSocketAddress at, int seed) throws Exception {
        byte[] data = new byte[400_000], back = new byte[data.length];
        new Random(seed).nextBytes(data);
        try (SocketChannel c = SocketChannel.open(at)) {
            Thread sender = new Thread(() -> {
                try {
                    ByteBuffer b = ByteBuffer.wrap(data);
                    while (b.hasRemaining()) {
                        c.write(b);
                    }
                    c.shutdownOutput();
                } catch (Exception e) {
                    throw new RuntimeException(e);
                }
            });
            sender.start();
            DataInputStream in = new DataInputStream(c.socket().getInputStream());
            in.readFully(back);
            if (in.read() != -1 || !Arrays.equals(data, back)) {
                throw new Exception("what came back differs");
            }
            sender.join();
        }
    }

    public static void main(String[] words) throws Exception {
        InetSocketAddress at = new InetSocketAddress(words[1], Integer.parseInt(words[2]));
        if (words[0].equals("serve")) {
            serve(at);
        }
        ExecutorService threads = Executors.newFixedThreadPool(8);
        ArrayList<Future<Void>> all = new ArrayList<>();
        for (int n = 0; n < 8; n++) {
            int seed = n;
            all.add(threads.submit((Callable<Void>) () -> {
                ask(at, seed);
                return null;
            }));
        }
        for (Future<Void> f : all) {
            f.get();
        }
        System.out.println("done");
        System.exit(0);
    }
}
