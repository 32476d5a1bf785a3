"""The name server of the manual's machines (RFC 1035): says the address of each name it was given, and that others have
none. Usage: dns.py ADDRESS NAME=ADDRESS…"""
import socket
import sys

known = dict(pair.split("=") for pair in sys.argv[2:])
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind((sys.argv[1], 53))
while True:
    query, caller = server.recvfrom(512)
    labels, at = [], 12
    while query[at]:
        labels.append(query[at + 1 : at + 1 + query[at]].decode().lower())
        at += 1 + query[at]
    question, kind = query[12 : at + 5], int.from_bytes(query[at + 1 : at + 3])
    address = known.get(".".join(labels))
    # An address is of type 1; a name without one, or of another type, is answered with nothing.
    answer = b"\xc0\x0c\0\x01\0\x01\0\0\0\x3c\0\x04" + socket.inet_aton(address) if address and kind == 1 else b""
    flags = b"\x85\x80" if address else b"\x85\x83"
    server.sendto(query[:2] + flags + b"\0\x01" + (b"\0\x01" if answer else b"\0\0") + b"\0\0\0\0" + question + answer, caller)
