// Full queues of a TCP connection over IPv6.
#include "tests/states/tcp_queues.h"

int main() { state::hold_full_queues(AF_INET6); }
