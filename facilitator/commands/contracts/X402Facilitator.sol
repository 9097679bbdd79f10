// SPDX-License-Identifier: MIT
pragma solidity ^0.8.26;

import {Ownable} from "@openzeppelin/contracts/access/Ownable.sol";
import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {ReentrancyGuard} from "@openzeppelin/contracts/utils/ReentrancyGuard.sol";
import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {MessageHashUtils} from "@openzeppelin/contracts/utils/cryptography/MessageHashUtils.sol";
import {Math} from "@openzeppelin/contracts/utils/math/Math.sol";

/// @notice The one call of EIP-3009 that this contract makes, with the signature as bytes.
interface IAuthorizedTransfer {
    function transferWithAuthorization(
        address from,
        address to,
        uint256 value,
        uint256 validAfter,
        uint256 validBefore,
        bytes32 nonce,
        bytes memory signature
    ) external;
}

/// @title X402Facilitator
/// @notice Moves a payment that its payer has signed: the amount less the protocol fee to the
/// recipient, the fee to the fee recipient. Anyone may submit a payment, its signature is the
/// authority; the submitter can change nothing in it.
contract X402Facilitator is Ownable, ReentrancyGuard {
    using SafeERC20 for IERC20;

    /// @notice Seconds for which a payment can be settled, counted from its timestamp.
    uint256 public constant MAX_PAYMENT_AGE = 300;

    /// @notice EIP-712 type hash of the message that payers sign.
    bytes32 public constant PAYMENT_TYPEHASH = keccak256(
        "Payment(string scheme,string network,address asset,address payTo,uint256 amount,string resource,string nonce,uint256 timestamp)"
    );

    bytes32 private constant DOMAIN_TYPEHASH =
        keccak256("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)");
    bytes32 private constant DOMAIN_NAME_HASH = keccak256("x402 Payment Protocol");
    bytes32 private constant DOMAIN_VERSION_HASH = keccak256("1");
    bytes32 private constant SCHEME_EXACT = keccak256("exact");
    bytes32 private constant SCHEME_UPTO = keccak256("upto");

    uint256 private constant BASIS_POINTS = 10_000;
    uint256 private constant MAX_PROTOCOL_FEE_BPS = 1_000;
    uint8 private constant DEFAULT_TOKEN_DECIMALS = 6;
    uint8 private constant VOLUME_DECIMALS = 18;

    bytes32 private immutable _networkHash;
    uint256 private immutable _deployedChainId;
    bytes32 private immutable _deployedDomainSeparator;

    /// @notice Share of a payment that goes to the fee recipient, in basis points.
    uint256 public protocolFeeBps = 50;

    /// @notice Where the protocol fees go.
    address public feeRecipient;

    /// @notice Number of payments settled.
    uint256 public totalSettlements;

    /// @notice Sum of all settled amounts with 18 decimals, each token taken at one dollar.
    uint256 public totalVolumeUSD;

    /// @notice Tokens that payments can be made in.
    mapping(address token => bool) public supportedTokens;

    /// @notice Services that the owner vouches for. Settlement asks for no such permission.
    mapping(address service => bool) public authorizedServices;

    /// @notice Payments that are done, by keccak256(payer ++ nonce).
    mapping(bytes32 key => bool) public usedNonces;

    mapping(address token => uint8) private _tokenDecimals;

    event PaymentSettled(
        bytes32 indexed paymentId,
        address indexed payer,
        address indexed recipient,
        address token,
        uint256 amount,
        uint256 protocolFee,
        string resource,
        uint256 timestamp
    );
    event ServiceAuthorized(address indexed service, bool authorized);
    event TokenSupported(address indexed token, bool supported);
    event ProtocolFeeUpdated(uint256 oldFee, uint256 newFee);
    event FeeRecipientUpdated(address oldRecipient, address newRecipient);

    error InvalidSignature();
    error PaymentExpired();
    error NonceAlreadyUsed();
    error UnsupportedToken();
    error InvalidAmount();
    error InvalidRecipient();
    error TransferFailed();

    /// @param initialOwner who may change the settings; not the zero address
    /// @param initialFeeRecipient where the protocol fees go; not the zero address
    /// @param initialTokens tokens that are supported from the start; none the zero address
    /// @param networkName the `network` that payers sign, "jeju" for instance; not empty
    constructor(
        address initialOwner,
        address initialFeeRecipient,
        address[] memory initialTokens,
        string memory networkName
    ) Ownable(initialOwner) {
        if (initialFeeRecipient == address(0)) revert InvalidRecipient();
        // A string instead of an error of its own: the ABI's errors are what integrators decode.
        require(bytes(networkName).length != 0, "X402Facilitator: network name is empty");
        feeRecipient = initialFeeRecipient;
        for (uint256 i = 0; i < initialTokens.length; i++) {
            _setTokenSupported(initialTokens[i], true);
        }
        _networkHash = keccak256(bytes(networkName));
        _deployedChainId = block.chainid;
        _deployedDomainSeparator = _buildDomainSeparator();
    }

    /// @notice Settles a payment from the payer's allowance to this contract.
    /// @param payer who signed the payment and pays it
    /// @param recipient who receives the amount less the fee
    /// @param token a supported ERC-20 token
    /// @param amount atomic units of the token, fee included
    /// @param resource what is paid for
    /// @param nonce free text, usable once per payer
    /// @param timestamp unix seconds at signing
    /// @param signature the payer's 65-byte EIP-712 signature of `Payment`
    /// @return paymentId keccak256(payer ++ recipient ++ nonce ++ block.timestamp)
    function settle(
        address payer,
        address recipient,
        address token,
        uint256 amount,
        string calldata resource,
        string calldata nonce,
        uint256 timestamp,
        bytes calldata signature
    ) external nonReentrant returns (bytes32 paymentId) {
        _useNonce(payer, recipient, token, amount, resource, nonce, timestamp, signature);
        uint256 fee = _feeOf(amount);
        _pull(token, payer, recipient, amount - fee);
        if (fee != 0) _pull(token, payer, feeRecipient, fee);
        return _record(payer, recipient, token, amount, fee, resource, nonce);
    }

    /// @notice Settles a payment with an EIP-3009 authorization; the payer needs no allowance.
    /// @dev The authorization is from the payer to this contract, for exactly `amount`.
    /// @param payer who signed the payment and the authorization
    /// @param recipient who receives the amount less the fee
    /// @param token a supported ERC-20 token with EIP-3009
    /// @param amount atomic units of the token, fee included
    /// @param resource what is paid for
    /// @param nonce free text, usable once per payer
    /// @param timestamp unix seconds at signing of the payment
    /// @param paymentSignature the payer's 65-byte EIP-712 signature of `Payment`
    /// @param validAfter unix seconds after which the authorization holds
    /// @param validBefore unix seconds before which the authorization holds
    /// @param authNonce the authorization's own nonce
    /// @param authSignature the payer's signature of the token's `TransferWithAuthorization`
    /// @return paymentId keccak256(payer ++ recipient ++ nonce ++ block.timestamp)
    function settleWithAuthorization(
        address payer,
        address recipient,
        address token,
        uint256 amount,
        string calldata resource,
        string calldata nonce,
        uint256 timestamp,
        bytes calldata paymentSignature,
        uint256 validAfter,
        uint256 validBefore,
        bytes32 authNonce,
        bytes calldata authSignature
    ) external nonReentrant returns (bytes32 paymentId) {
        _useNonce(payer, recipient, token, amount, resource, nonce, timestamp, paymentSignature);
        _collect(token, payer, amount, validAfter, validBefore, authNonce, authSignature);
        uint256 fee = _feeOf(amount);
        _push(token, recipient, amount - fee);
        if (fee != 0) _push(token, feeRecipient, fee);
        return _record(payer, recipient, token, amount, fee, resource, nonce);
    }

    /// @notice Allows or stops payments in a token.
    function setTokenSupported(address token, bool supported) external onlyOwner {
        _setTokenSupported(token, supported);
    }

    /// @notice Sets the decimals by which a token counts in the volume; 0 means the default, 6.
    function setTokenDecimals(address token, uint8 decimals) external onlyOwner {
        _tokenDecimals[token] = decimals;
    }

    /// @notice Marks a service as one that the owner vouches for, or takes that back.
    function setAuthorizedService(address service, bool authorized) external onlyOwner {
        authorizedServices[service] = authorized;
        emit ServiceAuthorized(service, authorized);
    }

    /// @notice Sets the protocol fee, in basis points, at most 1000 (10 %).
    function setProtocolFee(uint256 newFeeBps) external onlyOwner {
        if (newFeeBps > MAX_PROTOCOL_FEE_BPS) revert InvalidAmount();
        emit ProtocolFeeUpdated(protocolFeeBps, newFeeBps);
        protocolFeeBps = newFeeBps;
    }

    /// @notice Sets where the protocol fees go.
    function setFeeRecipient(address newRecipient) external onlyOwner {
        if (newRecipient == address(0)) revert InvalidRecipient();
        emit FeeRecipientUpdated(feeRecipient, newRecipient);
        feeRecipient = newRecipient;
    }

    /// @notice Sends tokens that were left in this contract to the owner. No settlement keeps any
    /// here; an authorization that was used past this contract does.
    function recoverTokens(address token, uint256 amount) external onlyOwner {
        if (!IERC20(token).trySafeTransfer(owner(), amount)) revert TransferFailed();
    }

    /// @notice Whether the payer's nonce has been settled.
    function isNonceUsed(address payer, string calldata nonce) external view returns (bool) {
        return usedNonces[_nonceKey(payer, nonce)];
    }

    /// @notice The totals and the fee in one call.
    /// @return settlements number of payments settled
    /// @return volumeUSD their sum with 18 decimals
    /// @return feeBps the protocol fee in basis points
    /// @return feeAddr where the fees go
    function getStats()
        external
        view
        returns (uint256 settlements, uint256 volumeUSD, uint256 feeBps, address feeAddr)
    {
        return (totalSettlements, totalVolumeUSD, protocolFeeBps, feeRecipient);
    }

    /// @notice The EIP-712 digest that a payer signs for a payment of scheme `exact`.
    function hashPayment(
        address token,
        address recipient,
        uint256 amount,
        string calldata resource,
        string calldata nonce,
        uint256 timestamp
    ) external view returns (bytes32) {
        return _digest(
            SCHEME_EXACT,
            token,
            recipient,
            amount,
            keccak256(bytes(resource)),
            keccak256(bytes(nonce)),
            timestamp
        );
    }

    /// @notice The decimals by which a token counts in the volume.
    function tokenDecimals(address token) public view returns (uint8) {
        uint8 decimals = _tokenDecimals[token];
        return decimals == 0 ? DEFAULT_TOKEN_DECIMALS : decimals;
    }

    /// @notice The EIP-712 domain separator of this contract on the current chain.
    function domainSeparator() public view returns (bytes32) {
        // After a chain split the cached value belongs to the other chain.
        return block.chainid == _deployedChainId ? _deployedDomainSeparator : _buildDomainSeparator();
    }

    /// @dev Checks everything that a payment must be and marks its nonce, before any call outside.
    function _useNonce(
        address payer,
        address recipient,
        address token,
        uint256 amount,
        string calldata resource,
        string calldata nonce,
        uint256 timestamp,
        bytes calldata signature
    ) private {
        if (amount == 0) revert InvalidAmount();
        if (recipient == address(0)) revert InvalidRecipient();
        if (!supportedTokens[token]) revert UnsupportedToken();
        // `timestamp + MAX_PAYMENT_AGE` could overflow. Without a branch besides, so that the gas
        // does not depend on the second in which the payment is mined: an estimate stays true.
        uint256 age = Math.saturatingSub(block.timestamp, timestamp);
        if (age > MAX_PAYMENT_AGE) revert PaymentExpired();
        bytes32 key = _nonceKey(payer, nonce);
        if (usedNonces[key]) revert NonceAlreadyUsed();

        bytes32 resourceHash = keccak256(bytes(resource));
        bytes32 nonceHash = keccak256(bytes(nonce));
        if (
            !_signed(
                payer,
                _digest(SCHEME_EXACT, token, recipient, amount, resourceHash, nonceHash, timestamp),
                signature
            )
                && !_signed(
                    payer,
                    _digest(SCHEME_UPTO, token, recipient, amount, resourceHash, nonceHash, timestamp),
                    signature
                )
        ) revert InvalidSignature();
        usedNonces[key] = true;
    }

    /// @dev Counts a payment that has moved and emits its event.
    function _record(
        address payer,
        address recipient,
        address token,
        uint256 amount,
        uint256 fee,
        string calldata resource,
        string calldata nonce
    ) private returns (bytes32 paymentId) {
        totalSettlements += 1;
        // A statistic must never be what stops a payment, hence no checked arithmetic.
        totalVolumeUSD = Math.saturatingAdd(totalVolumeUSD, _volumeOf(token, amount));
        paymentId = keccak256(abi.encodePacked(payer, recipient, nonce, block.timestamp));
        emit PaymentSettled(paymentId, payer, recipient, token, amount, fee, resource, block.timestamp);
    }

    /// @dev Takes exactly `amount` from the payer into this contract.
    function _collect(
        address token,
        address payer,
        uint256 amount,
        uint256 validAfter,
        uint256 validBefore,
        bytes32 authNonce,
        bytes calldata authSignature
    ) private {
        uint256 held = IERC20(token).balanceOf(address(this));
        try IAuthorizedTransfer(token).transferWithAuthorization(
            payer, address(this), amount, validAfter, validBefore, authNonce, authSignature
        ) {} catch {
            revert TransferFailed();
        }
        // A token that delivers less would have the rest paid out of what others left here.
        if (IERC20(token).balanceOf(address(this)) != held + amount) revert TransferFailed();
    }

    function _pull(address token, address from, address to, uint256 amount) private {
        // The "try" forms, so that a token cannot answer with an error that looks like ours.
        if (!IERC20(token).trySafeTransferFrom(from, to, amount)) revert TransferFailed();
    }

    function _push(address token, address to, uint256 amount) private {
        if (!IERC20(token).trySafeTransfer(to, amount)) revert TransferFailed();
    }

    function _setTokenSupported(address token, bool supported) private {
        if (token == address(0)) revert UnsupportedToken();
        supportedTokens[token] = supported;
        emit TokenSupported(token, supported);
    }

    function _feeOf(uint256 amount) private view returns (uint256) {
        return amount * protocolFeeBps / BASIS_POINTS;
    }

    function _volumeOf(address token, uint256 amount) private view returns (uint256) {
        uint256 decimals = tokenDecimals(token);
        if (decimals <= VOLUME_DECIMALS) {
            return Math.saturatingMul(amount, 10 ** (VOLUME_DECIMALS - decimals));
        }
        uint256 excess = decimals - VOLUME_DECIMALS;
        // 10 ** 78 does not fit into a word; no amount is that large.
        return excess < 78 ? amount / 10 ** excess : 0;
    }

    function _digest(
        bytes32 schemeHash,
        address token,
        address recipient,
        uint256 amount,
        bytes32 resourceHash,
        bytes32 nonceHash,
        uint256 timestamp
    ) private view returns (bytes32) {
        bytes32 structHash = keccak256(
            abi.encode(
                PAYMENT_TYPEHASH,
                schemeHash,
                _networkHash,
                token,
                recipient,
                amount,
                resourceHash,
                nonceHash,
                timestamp
            )
        );
        return MessageHashUtils.toTypedDataHash(domainSeparator(), structHash);
    }

    function _buildDomainSeparator() private view returns (bytes32) {
        return keccak256(
            abi.encode(
                DOMAIN_TYPEHASH, DOMAIN_NAME_HASH, DOMAIN_VERSION_HASH, block.chainid, address(this)
            )
        );
    }

    /// @dev 65 bytes, low s, v 27 or 28: everything else counts as not signed.
    function _signed(address payer, bytes32 digest, bytes calldata signature)
        private
        pure
        returns (bool)
    {
        (address signer, ECDSA.RecoverError failure,) = ECDSA.tryRecoverCalldata(digest, signature);
        return failure == ECDSA.RecoverError.NoError && signer == payer;
    }

    function _nonceKey(address payer, string calldata nonce) private pure returns (bytes32) {
        return keccak256(abi.encodePacked(payer, nonce));
    }
}
