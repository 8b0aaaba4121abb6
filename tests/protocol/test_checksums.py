"""The checksum is zlib's, whichever library computes it."""

from __future__ import annotations

import subprocess
import sys
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsx.protocol.checksums import crc32


@given(st.binary(max_size=5000), st.integers(0, 2**32 - 1))
def test_checksum_is_that_of_zlib_and_can_be_gone_on_with(data: bytes, before: int) -> None:
    assert crc32(data) == zlib.crc32(data)
    assert crc32(memoryview(data), before) == zlib.crc32(data, before)


@pytest.mark.parametrize(("hidden", "module"), [("zlib_ng", "zlib"), ("", "zlib_ng.zlib_ng")])
def test_the_quick_library_is_used_where_it_is_installed_and_zlib_elsewhere(hidden: str, module: str) -> None:
    code = f"import sys; sys.modules.update(dict.fromkeys({[hidden]}))\nfrom dsx.protocol.checksums import crc32\n"
    command = [sys.executable, "-c", code + "print(crc32.__module__, crc32(b'123456789'))"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    # The check value that catalogues of CRCs give for CRC-32/ISO-HDLC.
    assert result.stdout.split() == [module, str(0xCBF43926)]
