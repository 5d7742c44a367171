"""Servers and clients of perl and ruby: buffered handles over a socket, a fork or a thread for each connection,
select, half closes, a child with the connection as its output."""
import random
import shutil

import pytest

PERL_SERVER = r"""
use strict; use warnings; use IO::Socket::INET; use IO::Select;
$SIG{CHLD} = 'IGNORE';
my $l = IO::Socket::INET->new(LocalAddr => $ARGV[0], LocalPort => $ARGV[1], Listen => 16, ReuseAddr => 1) or die;
while (my $c = $l->accept) {
    next if fork;
    close $l;
    binmode $c;
    my $how = <$c>;                       # buffered: what follows may be read with it
    if ($how eq "lines\n") {
        $c->autoflush(1);
        while (my $line = <$c>) { print $c scalar reverse($line), "\n"; }
    } elsif ($how eq "child\n") {
        open STDOUT, '>&', $c; close $c;
        exec 'seq', '1', '100000';
    } else {
        my $n = 0;
        while (my $got = read $c, my $data, 50000) { $n += $got; print $c $data; }
        printf $c "%d bytes", $n;
    }
    exit;
}
"""
RUBY_SERVER = r"""
require 'socket'
l = TCPServer.new(ARGV[0], ARGV[1].to_i)
loop do
  Thread.new(l.accept) do |c|
    c.binmode
    how = c.gets
    if how == "lines\n"
      while line = c.gets do c.write(line.reverse + "\n") end
    elsif how == "child\n"
      spawn('seq', '1', '100000', out: c)
    else
      n = 0
      while data = c.read(50000) do n += data.bytesize; c.write(data) end
      c.print("#{n} bytes")
    end
    c.close
  end
end
"""
PERL_CLIENT = r"""
use strict; use warnings; use IO::Socket::INET;
binmode STDIN; binmode STDOUT;
my $c = IO::Socket::INET->new(PeerAddr => $ARGV[0], PeerPort => $ARGV[1]) or die;
my $writer = fork;
if (!$writer) {
    while (read STDIN, my $data, 70000) { print $c $data or die; }
    $c->flush; $c->shutdown(1);
    exit;
}
while (sysread $c, my $data, 30000) { print $data; }
waitpid $writer, 0;
"""
RUBY_CLIENT = r"""
require 'socket'
$stdin.binmode; $stdout.binmode
c = TCPSocket.new(ARGV[0], ARGV[1].to_i)
writer = Thread.new { IO.copy_stream($stdin, c); c.close_write }
IO.copy_stream(c, $stdout)
writer.join
"""

SERVERS = {"perl": PERL_SERVER, "ruby": RUBY_SERVER}
CLIENTS = {"perl": PERL_CLIENT, "ruby": RUBY_CLIENT}
LANGUAGES = [pytest.param(name, marks=pytest.mark.skipif(not shutil.which(name), reason=f"no {name}: apt-get install {name}"))
             for name in SERVERS]
COUNTED = b"".join(b"%d\n" % n for n in range(1, 100_001))


@pytest.mark.parametrize("language", LANGUAGES)
def test_both_ends(way, language):
    port = way.port()
    way.serve([language, "-e", SERVERS[language], way.address, port], port)

    def talk(data):
        return way.run([language, "-e", CLIENTS[language], way.address, port], input=data, binary=True, timeout_s=30).stdout

    data = random.Random(6).randbytes(2_000_000)
    lines = [b"line %d\n" % n for n in range(3000)]
    assert talk(b"bytes\n" + data) == data + b"%d bytes" % len(data)
    assert talk(b"lines\n" + b"".join(lines)) == b"".join(line[::-1] + b"\n" for line in lines)
    assert talk(b"child\n") == COUNTED
    way.check_carried(at_least=2 * len(data))
